"""Lightning callbacks of a run, in the order of `run_callbacks` in `run/fit.py`, and of an evaluation."""
