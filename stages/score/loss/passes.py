"""The passes of models over rows that formulas need: each once, whatever formulas share it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import numpy as np
import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import Engine, LanguageModel
from pipeline.models.counting import is_counting
from pipeline.models.local.chat_template import Unrenderable
from schemas.records import Message, digest
from schemas.turns import View, turn_text
from stages._llm import likelihood_views as views
from stages._llm.likelihood_views import Floats, Part, RenderedConversation, Rendering, mean_loss
from stages.score.loss.formulas import FORMULAS, Definition, Fact, Model, Pass, Shown

Measured = dict[tuple[Pass | Fact, int], Floats]
"""The arrays of formulas, by what they are and the number of the row."""

SOURCE: Final = ("messages", "input_start", "tools")


@dataclass(frozen=True)
class Models:
    """The models that rows are scored by, which share the tokens of the first.

    Attributes:
        model: The model whose likelihoods are measured.
        first: Its first checkpoint, None without.
        last: Its last checkpoint, None without.
        pruned: What became of it by pruning, None where it is not needed.
        limit: How many tokens all of them read.
        identity: What the model is in the recipe.
    """

    model: Engine
    first: Engine | None
    last: Engine | None
    pruned: Engine | None
    limit: int
    identity: LanguageModel

    @classmethod
    def opened(
        cls,
        ctx: Context,
        model: LanguageModel,
        checkpoints: Sequence[LanguageModel],
        pruned: LanguageModel | None,
        max_length: int,
    ) -> Models:
        """Load them.

        Args:
            ctx: The context.
            model: The model.
            checkpoints: Its checkpoints, in their order.
            pruned: Its pruned form.
            max_length: Tokens that are read at most.

        Raises:
            UserError: One of them has another vocabulary.
        """
        engine = ctx.open(model)
        used = list(dict.fromkeys([*checkpoints[:1], *checkpoints[-1:]]))
        others = {other: ctx.open(other) for other in [*used, *([pruned] if pruned else [])]}
        for other, opened in others.items():
            _check_vocabulary(engine, opened, model, other)
        limits = [e.context_tokens or max_length for e in (engine, *others.values())]
        return cls(
            engine,
            others[checkpoints[0]] if checkpoints else None,
            others[checkpoints[-1]] if checkpoints else None,
            others[pruned] if pruned else None,
            min(max_length, *limits),
            model,
        )

    def named(self, name: Model) -> Engine:
        """The one of this name, which the formulas need."""
        engine: Engine | None = getattr(self, name)
        assert engine is not None, "the stage's check lets no recipe through without"
        return engine


def _check_vocabulary(
    engine: Engine, other: Engine, model: LanguageModel, compared: LanguageModel
) -> None:
    if is_counting() or other is engine:
        return
    if engine.tokenizer.get_vocab() != other.tokenizer.get_vocab():
        raise UserError(
            f"{compared.short_name} must have the vocabulary of {model.short_name}",
            where=compared.model,
            why="both read the same tokens, and are compared at each of them",
        )


class Rows:
    """Conversations and what formulas show of them.

    Args:
        rows: The records.
        rendering: What is common to all rows.

    Attributes:
        rendering: What is common to all rows.
        rendered: Each as the chat template renders it; None where it cannot.
        errors: Why it cannot; None where it can.
    """

    def __init__(self, rows: pl.DataFrame, rendering: Rendering) -> None:
        self._rows = list(rows.select(SOURCE).iter_rows())
        self.rendering = rendering
        results = [_render(rendering, *row) for row in self._rows]
        self.rendered = [r if isinstance(r, RenderedConversation) else None for r in results]
        self.errors = [r if isinstance(r, str) else None for r in results]

    def __len__(self) -> int:
        return len(self._rows)

    def shown(self, shown: Shown) -> list[RenderedConversation | None]:
        """What stands for each row; None where nothing does.

        Args:
            shown: The row itself, or what is made of it.
        """
        if shown == "row":
            return self.rendered
        derived: Derived = _reversed if shown == "reversed" else _without_input
        results: list[RenderedConversation | None] = []
        for (messages, start, tools), known in zip(self._rows, self.rendered, strict=True):
            read = known is not None
            other = derived(messages, start, tools, self.rendering.turn) if read else None
            rendered = None if other is None else _render(self.rendering, *other)
            results.append(rendered if isinstance(rendered, RenderedConversation) else None)
        return results

    def instructions(self) -> list[tuple[int, ...]]:
        """The tokens of each row's first request without its input, as far as they are read."""
        tokenizer, limit = self.rendering.tokenizer, self.rendering.limit
        texts = [_instruction(messages or [], start) for messages, start, _ in self._rows]
        return [tuple(tokenizer.encode(text)[:limit]) if text else () for text in texts]

    def answer_characters(self) -> list[int]:
        """The characters of each row's last answer, 0 for none and for a blank one."""
        turns = ([m for m in row[0] or () if m["role"] == "assistant"] for row in self._rows)
        texts = (turn_text(each[-1], self.rendering.turn) if each else "" for each in turns)
        return [len(text) if text.strip() else 0 for text in texts]


def _render(
    rendering: Rendering, messages: Any, input_start: int | None, tools: str | None
) -> RenderedConversation | str:
    """The conversation, or why it cannot be rendered."""
    try:
        return views.conversation(rendering, messages or [], input_start, tools)
    except Unrenderable as error:
        return str(error)


Row = tuple[list[Message], int | None, str | None]
Derived = Callable[[list[Message] | None, int | None, str | None, View], Row | None]
"""From a row, and what of a turn is shown, to what stands in its place."""


def _reversed(
    messages: list[Message] | None, input_start: int | None, tools: str | None, view: View
) -> Row | None:
    """The last answer as the user's turn, and what it answers as the answer."""
    del input_start, tools
    turns = messages or []
    last = max((i for i, m in enumerate(turns) if m["role"] == "assistant"), default=0)
    users = [m for m in turns[:last] if m["role"] == "user"]
    answer = turn_text(turns[last], view) if turns else ""
    if not users or not answer.strip() or not (users[-1]["content"] or "").strip():
        return None
    pair = [
        Message(role="user", content=answer),
        Message(role="assistant", content=users[-1]["content"]),
    ]
    return pair, None, None


def _without_input(
    messages: list[Message] | None, input_start: int | None, tools: str | None, view: View
) -> Row | None:
    """The row without its separate input."""
    del view
    if input_start is None:
        return None
    turns = list(messages or [])
    first = next(i for i, m in enumerate(turns) if m["role"] == "user")
    instruction = _instruction(turns, input_start)
    turns[first] = Message({**turns[first], "content": instruction})
    return (turns, None, tools) if instruction else None


def _instruction(messages: Sequence[Message], input_start: int | None) -> str:
    """The first request without its separate input."""
    text = next((m["content"] or "" for m in messages if m["role"] == "user"), "")
    return text[:input_start].strip()


def measured(
    ctx: Context, models: Models, rows: Rows, valid: pl.DataFrame | None, needed: Iterable[str]
) -> Measured:
    """All arrays that formulas need of the rows.

    Args:
        ctx: The context.
        models: The models.
        rows: The rows.
        valid: Those for validation.
        needed: The formulas.
    """
    compared = dict.fromkeys(one for name in needed for one in FORMULAS[name].compares)
    passes = [one for one in compared if isinstance(one, Pass) and one.shown != "valid"]
    results = _log_probs(models, rows, passes)
    for one in compared:
        if isinstance(one, Pass) and one.shown == "valid":
            assert valid is not None, "the stage's check lets no recipe through without"
            loss = -np.array([valid_loss(ctx.work, models, rows.rendering, valid, one)])
            results |= {(one, i): loss for i in range(len(rows))}
    if "divergence" in compared:
        results |= _divergences(ctx, models, rows)
    return results


def _log_probs(models: Models, rows: Rows, passes: Sequence[Pass]) -> Measured:
    """Each model's log-probabilities; all views of all rows go to it together."""
    results: Measured = {}
    shown = {name: rows.shown(name) for name in dict.fromkeys(one.shown for one in passes)}
    for name in dict.fromkeys(one.model for one in passes):
        parts: dict[tuple[Pass | Fact, int], list[Part]] = {
            (one, i): one.view(conversation, rows.rendering)
            for one in passes
            if one.model == name
            for i, conversation in enumerate(shown[one.shown])
            if conversation is not None
        }
        scores = views.log_probs(models.named(name), parts)
        for key, values in scores.items():
            if views.lacks_numbers(parts[key], values):
                rows.errors[key[1]] = views.NOT_FINITE
        results |= scores
    return results


def valid_loss(
    work: Path, models: Models, rendering: Rendering, valid: pl.DataFrame, one: Pass
) -> float:
    """The mean loss of the rows for validation, measured once and not for each chunk of rows.

    Args:
        work: The folder that survives until the step is done.
        models: The models.
        rendering: What is common to all rows.
        valid: The rows.
        one: The view of them.

    Raises:
        UserError: None of them has a loss.
    """
    path = work / f"valid-{digest([repr(models.identity), models.limit, *valid['id']])}.json"
    if path.is_file():
        return float(json.loads(path.read_text("utf-8")))
    rows = Rows(valid, rendering)
    scores = _log_probs(models, rows, [Pass(one.view, one.model)])
    losses = [loss for values in scores.values() if np.isfinite(loss := mean_loss(values))]
    if rows.errors.count(views.NOT_FINITE):
        raise UserError(
            "a row on the edge `valid` must have a loss that is a number, got NaN",
            where=models.identity.model,
            hint="try another dtype, such as float32 or bfloat16",
        )
    if not losses:
        raise UserError(
            "no row on the edge `valid` has a loss",
            why="rows without an answer, or longer than max_length, have none",
        )
    mean = float(np.mean(losses))
    part = path.with_name(uuid4().hex)  # other workers may write it too
    part.write_text(json.dumps(mean), "utf-8")
    part.replace(path)
    return mean


def _divergences(ctx: Context, models: Models, rows: Rows) -> Measured:
    from pipeline.models.local.divergence import divergences

    texts = [
        tokens if rendered is not None else ()
        for tokens, rendered in zip(rows.instructions(), rows.rendered, strict=True)
    ]
    assert models.pruned is not None, "the stage's check lets no recipe through without"
    if is_counting():
        return {}
    ctx.count(tokens=2 * sum(map(len, texts)))
    pair = (models.model.weights, models.pruned.weights)
    results: Measured = {}
    lengths = rows.answer_characters()
    for i, values in enumerate(divergences(pair, texts, ctx.progress)):
        if np.isnan(values).any():
            rows.errors[i] = views.NOT_FINITE
        elif len(values):
            results["divergence", i] = values.astype(np.float64)
            if lengths[i]:
                results["cost", i] = np.array([(len(values) + lengths[i]) ** 2], np.float64)
    return results


def score(definition: Definition, arrays: Mapping[Any, Floats], i: int) -> float | None:
    """The value of a formula for a row, null where something is missing.

    Args:
        definition: The formula.
        arrays: What was measured.
        i: The number of the row.
    """
    keys = [(one, i) for one in definition.compares]
    if not all(key in arrays for key in keys):
        return None
    value = definition.score(*(arrays[key] for key in keys))
    return value if np.isfinite(value) else None
