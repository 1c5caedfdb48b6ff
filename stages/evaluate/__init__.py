"""How good a model or its answers are: benchmarks, judges, robustness, constraints."""
