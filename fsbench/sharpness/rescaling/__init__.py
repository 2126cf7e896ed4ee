"""How a network's layers, rows and columns can be rescaled, and at which scales a measure is least."""
