"""A small, really trained diffusion model of 32x32 emoji, and everything needed to train, sample and judge it."""
