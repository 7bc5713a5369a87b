"""Published weights and checkpoints of other projects: recognised, translated, downloaded and converted."""
