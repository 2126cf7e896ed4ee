"""Is a sharpness-aware optimizer what its paper says? Checks of anyone's, in float64, on networks of a few weights."""
