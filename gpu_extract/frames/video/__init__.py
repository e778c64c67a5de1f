"""What is known of a video beside its pixels, and its planes to BGR."""
