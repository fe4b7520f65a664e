"""Clusters and machines: cluster files, starting and reaching clusters, jobs, preemption notices, `fuseray doctor`."""
