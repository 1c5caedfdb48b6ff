"""What stages that use language models share: drafts, rows, prompts, scores of labels."""
