"""Landmarks to crops: mean faces, fits, poses. NumPy for all faces at once; see `crops` for the conventions."""
