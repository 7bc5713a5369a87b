"""Building blocks for backbones, necks and heads."""
