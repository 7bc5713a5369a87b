"""Built-in optimisers, registered through entry points like third-party plugins."""
