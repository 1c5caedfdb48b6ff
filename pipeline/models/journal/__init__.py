"""The journal: every request with its raw response, durable before anything parses it."""
