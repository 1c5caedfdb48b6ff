"""The engines behind a model: transformers, vLLM, OpenAI-compatible servers, replay, embedders."""
