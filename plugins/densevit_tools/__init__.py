"""Links to other tools: CVAT, Label Studio, FiftyOne, Optuna, MLflow, W&B and Hugging Face datasets."""
