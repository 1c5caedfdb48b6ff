"""Whether a release may be published, and the card that says what it is."""
