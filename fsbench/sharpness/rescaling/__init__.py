"""Rescaling of layers, rows and columns: where it leaves a network as it is, and at which scales a measure is least."""
