"""Probes of frozen backbones: the command `densevit probe`, its protocols, and what it fits to features."""
