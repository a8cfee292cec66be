"""L2: the pure state machine; the only place that decides."""
