"""How good, hard or unusual a record is: columns, never decisions."""
