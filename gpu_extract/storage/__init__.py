"""Bytes on a disk: files that are whole at every instant, locks, back-up copies."""
