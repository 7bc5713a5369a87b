"""Surface normals, a custom task: data set, head and evaluator."""
