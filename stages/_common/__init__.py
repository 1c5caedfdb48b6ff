"""Charts, verdicts and checks that any stage may use."""
