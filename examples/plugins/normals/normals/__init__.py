"""Surface normals, a task of one's own: data set, head and evaluator."""
