"""What γ and the stability measures really do, measured on the demo model with paired seeds and intervals."""
