"""Checks of backbones, heads and training methods, behind `densevit.testing`."""
