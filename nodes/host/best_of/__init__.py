"""Sampling several seeds together, and finishing only those that are chosen on the way."""
