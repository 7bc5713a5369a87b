"""Training runs: `run/` from the config to the report, `loop/` what runs in each step, `callbacks/` around the steps."""
