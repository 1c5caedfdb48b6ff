"""What is kept on disk: artifacts, Parquet, hashes, the cache of rows, views over layers."""
