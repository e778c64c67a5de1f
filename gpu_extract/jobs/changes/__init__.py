"""Changes of a faces folder in steps that a record keeps, so that what was killed is completed or taken back."""
