"""A command a module: what runs it, what `--help` says of it, and its words beside the options."""
