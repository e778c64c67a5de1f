"""What a batch cuts, and what it need not."""
