"""What stages share that ask language models: drafts, rows, prompts, label scores."""
