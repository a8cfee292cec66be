"""What the end-to-end tests, the demo and the benchmarks share: traffic, faults, the API."""
