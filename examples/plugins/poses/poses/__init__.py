"""A keypoint task of one's own: data set, target type, head and evaluator."""
