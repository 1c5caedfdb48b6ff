"""Supervised fine-tuning: hyperparameters, data sets of tokens, the trainer."""
