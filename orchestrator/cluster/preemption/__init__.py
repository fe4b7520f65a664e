"""Preemption notices of clouds, and the drain of the Ray node on a machine that will be taken away."""
