"""What lies on the disk: artifacts, Parquet files, hashes, the row cache, views over artifacts."""
