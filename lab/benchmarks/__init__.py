"""What the pack costs, as ratios of things timed in turn in one process: `python -m lab.benchmarks`."""
