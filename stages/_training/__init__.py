"""Fine-tuning: data sets of tokens and the trainer."""
