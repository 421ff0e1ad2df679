"""What is not shipped with the pack: the demo, the evidence, the benchmarks and the test bed."""
