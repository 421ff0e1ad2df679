"""A small diffusion model that generalises, on data everybody knows, with the judges and gates to measure it by."""
