"""L4: the shell: observe, plan, act; the work queue, kopf wiring, telemetry."""
