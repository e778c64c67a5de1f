"""The service: a door, a table and a page; the work stays `gpu-extract extract`, run in a process of its own."""
