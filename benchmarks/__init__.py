"""Measures the registry against its bounds and its peers: `python -m benchmarks` (see docs/performance/README.md)."""
