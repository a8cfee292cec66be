"""L1: pure statistics: ticks in, evidence and verdict out."""
