"""Tags: columns that say what a record is about and what form it has."""
