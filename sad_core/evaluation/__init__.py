"""Measures of finished images: diversity, guards against broken images, and sweeps over γ."""
