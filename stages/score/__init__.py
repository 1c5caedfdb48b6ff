"""Quality, difficulty and likelihood of rows: columns, never decisions."""
