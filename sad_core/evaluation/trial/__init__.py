"""A trial of one's own checkpoint: which γ to take there, chosen on some seeds and reported on others."""
