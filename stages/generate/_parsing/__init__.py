"""Reading models' answers: lists, fields and sections."""
