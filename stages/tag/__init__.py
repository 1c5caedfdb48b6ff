"""What a record is about and looks like."""
