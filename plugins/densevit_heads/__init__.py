"""Built-in heads, registered through entry points like third-party plugins."""
