"""Parts that plugins build from."""
