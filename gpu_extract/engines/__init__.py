"""Engines: pixels and matrices in, crops out. The contract is `base`, one module an engine in `samplers/`."""
