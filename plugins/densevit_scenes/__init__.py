"""The built-in data set `scenes`: ray-cast images of simple solids on a floor or on the ground, with exact labels."""
