"""The checks of `fuseray doctor`: the machine, its Python environment, its GPUs, and the services that a run needs."""
