"""The commands `predict`, `predictions`, `join` and `data prelabel`."""
