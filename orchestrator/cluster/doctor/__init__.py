"""The machine and the services that a run needs, examined for `fuseray doctor`."""
