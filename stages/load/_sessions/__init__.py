"""What coding agents write: from events to turns."""
