"""Files that training and other programs read."""
