"""L3: the port to the traffic providers and the embedded Envoy gateway."""
