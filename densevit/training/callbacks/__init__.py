"""Lightning callbacks of a run: checkpoints, best model, EMA, logging, progress, fault handling."""
