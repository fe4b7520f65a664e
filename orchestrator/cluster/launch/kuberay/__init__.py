"""Clusters that KubeRay runs on Kubernetes, reached through kubectl."""
