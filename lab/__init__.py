"""Everything for developers, none of it shipped: demo, evidence, benchmarks, figures, generators, test helpers."""
