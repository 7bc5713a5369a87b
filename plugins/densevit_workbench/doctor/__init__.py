"""`densevit doctor`: examines a data set, and its augmentation and cost under a config, before a training."""
