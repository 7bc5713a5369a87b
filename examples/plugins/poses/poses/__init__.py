"""A custom keypoint task: data set, target type, head and evaluator."""
