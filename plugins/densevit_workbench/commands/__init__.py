"""Commands of the workbench, one module each."""
