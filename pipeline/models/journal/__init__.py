"""The journal: every request with its raw response, durable before it is parsed."""
