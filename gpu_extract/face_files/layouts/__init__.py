"""How face files lie in the faces folder, one module a layout; see `faces.layout` for what a module offers."""
