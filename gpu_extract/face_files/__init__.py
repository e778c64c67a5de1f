"""Faces on their way to the disk and back: encoding, headers, thumbnails, names and places."""
