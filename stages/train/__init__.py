"""Fine-tuning on exported shards."""
