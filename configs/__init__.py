"""The shipped configs; a package, so that a wheel carries them. `densevit train NAME` finds them by name."""
