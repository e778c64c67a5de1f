"""Formats of face files, one module a family; see `faces.encoder` for what a module offers."""
