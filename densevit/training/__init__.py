"""Training runs: `run/` from config to report, `loop/` the training loop, `callbacks/` Lightning callbacks."""
