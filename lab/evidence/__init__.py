"""The effects of γ and of the stability measures on the demo model, with paired seeds and intervals."""
