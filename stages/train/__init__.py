"""Training of models on the selected rows."""
