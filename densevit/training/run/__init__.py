"""A training run from its config to its report, in order: plan, folder, training, finish."""
