"""The command line: what the verbs do and print."""
