"""Files that lie elsewhere: what they are called, how they are read, how long to wait."""
