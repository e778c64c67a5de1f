"""What the jobs tell of themselves, as JSON with stable keys and as a table for a person."""
