"""L3: the port to the Kubernetes API, its adapter, and the leader elector."""
