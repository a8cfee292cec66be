"""L3: the port to measurements of workers and gateways."""
