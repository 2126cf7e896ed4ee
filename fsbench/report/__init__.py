"""Tables computed from run records. Imports neither torch nor Hydra."""
