"""Image files to BGR pixels, whole or a region."""
