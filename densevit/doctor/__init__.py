"""`densevit doctor`: examines a data set, and what a config makes of it, before a training."""
