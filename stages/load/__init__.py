"""Files and data sets as records, documents and benchmark items."""
