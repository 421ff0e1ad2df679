"""Everything for developers, not shipped: demo, evidence, test bed, benchmarks, figures, generators, test helpers."""
