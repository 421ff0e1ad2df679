"""Helpers and fixtures that the tests, the generators and the benchmarks share."""
