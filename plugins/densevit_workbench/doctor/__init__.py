"""`densevit doctor`: examines a data set, its augmentation and the training cost of a config."""
