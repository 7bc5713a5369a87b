"""Training runs: `run/` from the config to the report, `loop/` what each step runs, `callbacks/` around the steps."""
