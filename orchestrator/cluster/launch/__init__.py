"""Launchers start clusters, connect to their job servers, and shut them down.

Three kinds: a cluster of this machine alone (`local`), one that Ray's cluster launcher starts on a cloud or on your own
machines (`ray_up`, through SSH), and one that KubeRay runs on Kubernetes (`kuberay`, through kubectl).
"""
