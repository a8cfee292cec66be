"""Simulations of the canary gate: worlds, the gate over many runs at once, intervals."""
