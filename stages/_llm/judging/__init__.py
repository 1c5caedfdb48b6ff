"""Language models as judges: what is judged, by labels or grades, and how biased the judge is."""
