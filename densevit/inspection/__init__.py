"""What transformers attend to: filters, positions, attention distances, rollout and maps over an image."""
