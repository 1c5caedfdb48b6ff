"""What a record is about and what it looks like."""
