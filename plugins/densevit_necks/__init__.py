"""Built-in necks, registered through entry points like third-party plugins."""
