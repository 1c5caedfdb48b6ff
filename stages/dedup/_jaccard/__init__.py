"""Near-duplicates by the Jaccard index of n-gram sets, exact and by MinHash."""
