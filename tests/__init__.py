"""A package, so that tests share `tests.helpers` and `tests.contracts.fakes`; no wheel holds it."""
