"""A recipe: YAML, options, wiring and checks, all mistakes reported together."""
