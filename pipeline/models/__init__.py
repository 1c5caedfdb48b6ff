"""Language models and embedders: one interface, several engines, one journal.

A stage names a `LanguageModel` or an `Embedder` in its options, opens it with
`Context.open` and sends `Request`s; what it gets are `Completion`s. All engines give the
same request the same key, so an answer in the journal serves every one of them.
"""

from pipeline.models.api import Api, Batching, Limits, Reasoning
from pipeline.models.base import (
    Completion,
    Decoding,
    Embedder,
    Encoder,
    Engine,
    LanguageModel,
    Request,
    Scored,
    TokenLogprobs,
    chat,
)
from pipeline.models.budget import Price

__all__ = [
    "Api",
    "Batching",
    "Completion",
    "Decoding",
    "Embedder",
    "Encoder",
    "Engine",
    "LanguageModel",
    "Limits",
    "Price",
    "Reasoning",
    "Request",
    "Scored",
    "TokenLogprobs",
    "chat",
]
