"""Plan and run a recipe: states, steps, workers, estimates, code drift, the history of rows."""
