"""Trying a checkpoint: a ladder of γ on some seeds, the best of it on others, every picture kept."""
