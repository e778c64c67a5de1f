"""The ways to sample, one module each; see `engines.base` for what a module offers."""
