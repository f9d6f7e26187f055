"""What carries a run out, and what it records."""
