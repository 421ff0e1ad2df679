"""The cost of the pack, as ratios of durations measured in turn in one process: `python -m lab.benchmarks`."""
