"""A training run from config to report: plan, folder, training, output."""
