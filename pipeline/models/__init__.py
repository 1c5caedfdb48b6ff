"""Language models and embedders: one interface, several engines, one journal."""

from pipeline.models.base import (
    Completion,
    Decoding,
    Embedder,
    Encoder,
    Engine,
    LanguageModel,
    Request,
    Scored,
    chat,
)

__all__ = [
    "Completion",
    "Decoding",
    "Embedder",
    "Encoder",
    "Engine",
    "LanguageModel",
    "Request",
    "Scored",
    "chat",
]
