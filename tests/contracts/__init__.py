"""One class of tests a contract, run over everything that keeps it; see `docs/architecture.md` for the contracts.

A new source, engine, layout, encoder or container is tested by a line in the list of its file here; a module in a
plug-in folder without such a line fails a test. `fakes` has stand-ins for other tests, which keep the contracts too.
"""
