"""The wishes of a user, one module each: one function, one report."""
