"""What loaders make of positions: one output row each, and the options that they share."""
