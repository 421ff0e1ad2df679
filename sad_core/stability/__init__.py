"""Hopfield stability of retrievals: the measures, traces of them over sampling runs, tables and comparisons."""
