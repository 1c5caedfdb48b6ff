"""What supervised fine-tuning trains on: rows of shards, as tokens in blocks, in an order.

Rows are rendered and masked (`encoding.py`), cut, packed and ordered here, before TRL's trainer
starts (`trainer.py`). So what is cut can be counted, two trainings can be given equal
tokens, and a resumed training sees what the interrupted one would have seen.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.errors import OptionError, UserError
from pipeline.models.base import PLAIN, LanguageModel, Scored, local_folder
from pipeline.models.local.chat_template import PLAIN_TEMPLATE
from pipeline.store.parquet import column_names, read_frame, to_arrow
from schemas.records import RECORD_COLUMNS
from schemas.turns import record_message, tools_json, turn_text

_log = logging.getLogger(__name__)

IGNORED: Final = -100
"""The label of a token that is read and not predicted (torch's `ignore_index`)."""

HINT: Final = (
    "set the option `chat_template` to a file that marks what the assistant says, its end token "
    "included: {% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
)
MARKS: Final = re.compile(r"\{%-?\s*generation\s*-?%\}")


def check_template(model: LanguageModel | None, template: Sequence[str] = ()) -> None:
    """Refuse a chat template without marks before anything runs, where it can be read.

    Args:
        model: The model, or None for one that an earlier stage of the recipe makes.
        template: The file of the option `chat_template`; none means the model's own.

    Raises:
        UserError: See `tokenizer_for`; or `template` is more than one file.
    """
    if len(template) > 1:
        raise OptionError(
            "chat_template",
            f"must be one file, got {len(template)}",
            hint="name the one to render with",
        )
    if model is None:
        return  # an output of an earlier stage, which has not run yet
    text = Path(template[0]).read_text("utf-8") if template else _own_template(model)
    if text is not None and not MARKS.search(text):
        tokenizer_for(model, template)


def _own_template(model: LanguageModel) -> str | None:
    """The template of a model on this machine, without loading any library; else None."""
    if model.chat_template == PLAIN:
        return PLAIN_TEMPLATE
    if model.chat_template:
        return Path(model.chat_template).read_text("utf-8")
    folder = local_folder(model.model)
    if folder is None:
        return None
    file, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if file.exists():
        return file.read_text("utf-8")
    own = json.loads(config.read_text("utf-8")).get("chat_template") if config.exists() else None
    return own if isinstance(own, str) else None


def tokenizer_for(model: LanguageModel, template: Sequence[str] = ()) -> tuple[Any, str]:
    """The model's tokenizer and a template that marks what the assistant says.

    That is the template of the option, else the model's own, else TRL's marked version
    of the model's own, which renders the same text and exists for common families.

    Args:
        model: The model.
        template: The file of the option `chat_template`; none means the model's own.

    Returns:
        The tokenizer and the text of the template.

    Raises:
        UserError: The template does not mark what the assistant says, or leaves the end
            token unmarked: a model that is never trained to stop does not stop.
    """
    from trl.chat_template_utils import (
        get_training_chat_template,
        is_chat_template_stop_token_trained,
    )

    tokenizer, where = load_tokenizer(model, template)
    marked = tokenizer.chat_template
    if not MARKS.search(marked):
        try:
            marked = get_training_chat_template(tokenizer)
        except ValueError:
            raise UserError(
                "the chat template does not mark what the assistant says",
                where=where,
                why="only the assistant's tokens are trained on, and {% generation %} marks them",
                hint=HINT,
            ) from None
    if not is_chat_template_stop_token_trained(tokenizer, marked):
        raise UserError(
            "the chat template leaves the end token of the assistant's turns unmarked",
            where=where,
            why="a model that is never trained to end its turn does not end it",
            hint=HINT,
        )
    return tokenizer, marked


def load_tokenizer(model: LanguageModel, template: Sequence[str] = ()) -> tuple[Any, str]:
    """The model's tokenizer, and where its chat template is from.

    Args:
        model: The model.
        template: The file of the option `chat_template`; none means the model's own.

    Raises:
        UserError: There is no chat template.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.model, revision=model.revision)
    file = template[0] if template else model.chat_template
    if file:
        built_in = PLAIN_TEMPLATE if file == PLAIN else None
        tokenizer.chat_template = built_in or Path(file).read_text("utf-8")
    if not tokenizer.chat_template:
        raise UserError(f"{model.model} has no chat template", hint=HINT)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, file or f"the chat template of {model.model}"


def reversed_pairs(messages: pl.Series) -> pl.Series:
    """Each conversation's first answer as the user's turn, and what it answers as the answer.

    A conversation without both has no assistant's turn here, and is left out as such.
    """

    def reversed_pair(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
        prompt = next((turn_text(t) for t in turns if t["role"] == "user"), None)
        answer = next((turn_text(t) for t in turns if t["role"] == "assistant"), None)
        pair = [{"role": "user", "content": answer or ""}]
        return [*pair, {"role": "assistant", "content": prompt}] if prompt and answer else pair

    pairs = [reversed_pair(turns) for turns in messages.to_list()]
    return pl.Series(messages.name, pairs, dtype=messages.dtype, strict=False)


def read_shards(
    files: Sequence[Path], order: str | None = None, further: Sequence[str] = ()
) -> pl.DataFrame:
    """The rows of exported shards in id order: `id`, `messages`, `tools`, as records have them.

    Args:
        files: Parquet files; a turn has OpenAI's names, and arguments and tools may be JSON.
        order: A column of positions (see `read_in_order`) that is read too.
        further: Further columns to read.

    Raises:
        UserError: The shards do not have such a column.
    """
    rows = _shard_rows(files)
    if further:
        present = set(column_names(files[0]))
        if absent := [name for name in further if name not in present]:
            raise UserError(
                f"the shards have no column {absent[0]!r}",
                where=str(files[0]),
                hint=f"write it with the rows: export.parquet, with: {{columns: [{absent[0]}]}}",
            )
        rows = rows.with_columns(read_frame(files, list(dict.fromkeys(further))))
    return _with_order(rows.sort("id"), files, order)


def _shard_rows(files: Sequence[Path]) -> pl.DataFrame:
    from pyarrow import parquet

    columns = [c for c in ("id", "messages", "tools") if c in column_names(files[0])]
    turn = parquet.read_schema(files[0]).field("messages").type.value_type
    if columns == ["id", "messages"] and {f.name for f in turn} == {"role", "content"}:
        return read_frame(files, columns)
    rows = [row for file in files for row in parquet.read_table(file, columns=columns).to_pylist()]
    records = [
        {
            "id": row["id"],
            "messages": [record_message(turn) for turn in row["messages"]],
            "tools": tools_json(row.get("tools")),
        }
        for row in rows
    ]
    kinds = {name: RECORD_COLUMNS[name] for name in ("id", "messages", "tools")}
    return pl.DataFrame(records, schema=kinds)


def _with_order(rows: pl.DataFrame, files: Sequence[Path], order: str | None) -> pl.DataFrame:
    """The rows with the column of their positions in the order of a training."""
    if order is None:
        return rows
    names = column_names(files[0])
    positions = read_frame(files, ["id", order]) if order in names else None
    if positions is None or positions[order].dtype not in (pl.List(pl.Int64), pl.Int64, pl.Int32):
        has = "no such column" if positions is None else f"the type is {positions[order].dtype}"
        raise UserError(
            f"the shards must hold each row's positions as {order!r}: {has}",
            where=str(files[0].parent.parent),
            hint=f"write `columns: [{order}]` at export.parquet, after mix.curriculum",
        )
    return rows.with_columns(positions.sort("id")[order]).drop_nulls(order)


def read_in_order(positions: pl.Series) -> NDArray[np.int64]:
    """The numbers of rows in the order of their positions; equal positions by number.

    Args:
        positions: Each row's position, or the list of all its positions; null for none.

    >>> read_in_order(pl.Series([[1, 2], [0], None])).tolist()
    [1, 0, 0]
    """
    table = pl.DataFrame({"row": np.arange(len(positions)), "at": positions})
    if isinstance(positions.dtype, pl.List):
        table = table.explode("at")
    rows = table.drop_nulls().sort("at", "row", maintain_order=True)["row"]
    return rows.to_numpy().astype(np.int64)


def answer_tokens() -> pl.Expr:
    """The number of tokens that loss is on: the labels, without the first token of a row.

    It has no context to be predicted from.

    >>> rows = pl.DataFrame({"labels": [[5, IGNORED, 7, 8]]})
    >>> rows.select(answer_tokens()).item()
    2
    """
    scored = pl.element().slice(1) != IGNORED
    return pl.col("labels").list.eval(scored).list.sum().fill_null(0)


def row_lengths(rows: pl.DataFrame) -> NDArray[np.int64]:
    """The number of tokens of each encoded row.

    >>> row_lengths(pl.DataFrame({"input_ids": [[1, 2, 3], [4]]}))
    array([3, 1])
    """
    return rows["input_ids"].list.len().to_numpy().astype(np.int64)


HIDDEN: Final = "hidden_reasoning"
"""The column of encoded rows that counts the characters of reasoning not rendered."""


def hidden_counts(rows: pl.DataFrame) -> dict[str, int]:
    """How much reasoning the chat template leaves out of rows; a warning where it is some.

    Args:
        rows: Encoded rows.

    Returns:
        `rows_reasoning_hidden` and `characters_reasoning_hidden`.

    >>> hidden_counts(pl.DataFrame({HIDDEN: [0, 3]}))
    {'rows_reasoning_hidden': 1, 'characters_reasoning_hidden': 3}
    """
    number, characters = int((rows[HIDDEN] > 0).sum()), int(rows[HIDDEN].sum())
    if number:
        _log.warning(
            "of %d rows the chat template leaves out reasoning (%d characters), which is not "
            "trained on", number, characters,
        )  # fmt: skip
    return {"rows_reasoning_hidden": number, "characters_reasoning_hidden": characters}


def cut(rows: pl.DataFrame, max_length: int) -> tuple[pl.DataFrame, dict[str, int]]:
    """Encoded rows cut at the end, as TRL cuts them, without those that have no answer then.

    Args:
        rows: Encoded rows.
        max_length: Tokens of a row, at most.

    Returns:
        The rows to train on, and counts: `rows`, `tokens` and `answer_tokens` of them;
        `rows_cut` and `tokens_cut`, what was shortened; what is not trained on:
        `rows_without_answer`, and `rows_refused`, which the chat template cannot show.

    >>> rows = pl.DataFrame({"input_ids": [[1, 2, 3], [4, 5]], "labels": [[IGNORED, 2, 3]] * 2})
    >>> cut(rows[:1], 2)[0].rows()
    [([1, 2], [-100, 2])]
    """
    refused = rows["input_ids"].null_count()
    rows = rows.filter(pl.col("input_ids").is_not_null())
    excess = np.maximum(row_lengths(rows) - max_length, 0)
    tokens = [name for name in ("input_ids", "labels", "weights") if name in rows.columns]
    short = rows.with_columns(pl.col(tokens).list.head(max_length))
    trained = short.filter(answer_tokens() > 0)
    counts = {
        "rows": trained.height,
        "tokens": int(row_lengths(trained).sum()),
        "answer_tokens": int(trained.select(answer_tokens().sum()).item()),
        "rows_cut": int((excess > 0).sum()),
        "tokens_cut": int(excess.sum()),
        "rows_without_answer": rows.height - trained.height,
        "rows_refused": refused,
    }
    return trained, counts


def pack(rows: pl.DataFrame, max_length: int) -> Any:
    """Rows, none of them divided, in blocks of at most max_length tokens (TRL's "bfd")

    Adds `seq_lengths`: the rows' lengths within the block, from which TRL makes the
    position ids that separate packed rows (see `trainer.py`).
    """
    from trl.data_utils import pack_dataset

    return pack_dataset(dataset(rows), max_length, "bfd")


def dataset(rows: pl.DataFrame) -> Any:
    """A frame as a `datasets.Dataset`, in memory."""
    from datasets import Dataset

    return Dataset(to_arrow(rows))


def passes(count: int, num_positions: int, seed: int | None) -> NDArray[np.int64]:
    """Positions from one pass over all rows after another, each shuffled.

    Args:
        count: The number of rows or blocks, at least 1.
        num_positions: How many positions to give, at least 1.
        seed: Of the orders; None for passes in the order of the rows.

    >>> sorted(passes(3, 6, seed=0).tolist())
    [0, 0, 1, 1, 2, 2]
    """
    if seed is None:
        return np.resize(np.arange(count), num_positions)
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(count) for _ in range(-(-num_positions // count))]
    return np.concatenate(orders)[:num_positions]


def answer_losses(model: Any, rows: pl.DataFrame) -> pl.DataFrame:
    """How well a model predicts the assistant's tokens of encoded rows.

    A row's loss depends on the row alone.

    Args:
        model: A transformers model, or a peft one.
        rows: Encoded rows with an answer each (see `cut`).

    Returns:
        `loss` (the summed negative log-likelihood, nats) and `tokens`, for each row.
    """
    from pipeline.models.local.likelihood import Likelihoods

    model.eval()
    ids = [np.asarray(row) for row in rows["input_ids"]]
    scored = [np.flatnonzero(np.asarray(row[1:]) != IGNORED) + 1 for row in rows["labels"]]
    requests = [
        Scored(tuple(row.tolist()), int(at[0])) for row, at in zip(ids, scored, strict=True)
    ]
    # Of an adapter the model that holds it.
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    log_probs = Likelihoods(base).score(requests)
    sums = [
        -part[at - at[0]].sum(dtype=np.float64) for part, at in zip(log_probs, scored, strict=True)
    ]
    return pl.DataFrame({"loss": sums, "tokens": [len(at) for at in scored]})
