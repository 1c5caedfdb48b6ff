"""What a person, or a paper, wants to know about the outcome."""
