"""The door: HTTP, one module a noun of its addresses."""
