"""Instructions and answers made harder, better or different."""
