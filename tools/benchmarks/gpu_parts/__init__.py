"""The parts of `gpu.py`: each module has `cases(setting)`, names with functions that return values."""
