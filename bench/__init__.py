"""Benchmarks: long series and speeds, with raw results kept in bench/results/."""
