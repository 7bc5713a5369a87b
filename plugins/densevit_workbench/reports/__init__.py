"""Pages and tables that compare runs."""
