"""The cost of the pack on a graphics card, by `make benchmark-gpu`."""
