"""Instructions and answers changed: made better, harder or different."""
