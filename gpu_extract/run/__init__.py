"""One run: what to cut, the threads that do it, the journal that remembers it."""
