"""Built-in training methods, registered through entry points like third-party plugins."""
