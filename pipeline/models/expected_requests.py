"""What a stage says beforehand of the requests that it will send to language models.

The module of a stage that asks has a function

    def expected_requests(options: SimpleNamespace, rows: Rows) -> list[Asking] | None: ...

which gives one `Asking` for each kind of request, from the options and from the rows on
its edges, as if nothing were dropped on the way; None where the rows that it depends on
are not there yet. It looks at rows and asks nobody. `pipeline.execution.estimate` makes tokens and
money of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import polars as pl

from pipeline.models.base import LanguageModel

CHARACTERS: Final = 4
"""Characters of a token, about: English prose under the usual vocabularies."""

TEMPLATE: Final = 8
"""Tokens that a chat template puts around a prompt, about."""

Rows = Callable[[str], pl.DataFrame | None]
"""The rows on an edge, by its name, with the columns that the stage reads there.

None where nothing is connected, or where what is connected has not run yet.
"""


class Asking(NamedTuple):
    """Requests of one kind to one model.

    requests: how many. prompt: characters of a prompt, about; None where the rows that it
    shows are not there yet. answer: tokens of an answer, at most.
    shown: the limits, in tokens, of the answers to earlier requests that a prompt shows too.
    """

    model: LanguageModel
    requests: float
    prompt: float | None
    answer: int
    shown: tuple[int, ...] = ()
