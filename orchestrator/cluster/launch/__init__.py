"""Starting, reaching and ending clusters.

Clusters that KubeRay runs on Kubernetes, reached through kubectl.

A cluster of this machine alone.

Clusters of Ray's cluster launcher: clouds and machines of one's own, reached by SSH.
"""
