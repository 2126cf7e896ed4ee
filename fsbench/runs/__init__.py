"""Run records on disk. Imports neither torch nor Hydra."""
