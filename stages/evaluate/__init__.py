"""How good answers are, by measures that need no judge: what benchmarks report."""
