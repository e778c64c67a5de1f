"""Pickles without calling anything: the unpickler that knows a dozen names, and the writer."""
