"""A small renderer: things of simple shape on a floor or on the ground, ray-cast with exact labels."""
