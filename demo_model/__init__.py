"""The demo model's names, its shape and its latents; torch only, for the node that loads it and for the lab."""
