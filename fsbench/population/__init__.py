"""Populations: many runs of small networks trained in step, on stacked weights."""
