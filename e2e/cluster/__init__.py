"""The local Kubernetes cluster and the project's images.

``python -m e2e.cluster up`` starts a cluster (kind where a Docker engine answers, else a single
node from real Kubernetes parts in a network namespace of its own), ``python -m e2e.cluster.images``
builds and loads images. docs/local-cluster.md tells the whole story.
"""
