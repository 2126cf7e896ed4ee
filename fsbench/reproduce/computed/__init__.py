"""Tables and figures that need no training run: the toy problem, timings, exact values."""
