"""Open tags of what a request is after, with one name for each: InsTag.

#InsTag: Instruction Tagging for Analyzing Supervised Fine-tuning of Large Language Models (Lu et
al. 2023, arXiv:2308.07074). The authors published the tagger that they distilled (InsTagger), and
neither code nor tags.

- As in the paper: a strong model writes the tags of a query, each with a short explanation, in
  JSON; the tags of all queries are normalized by frequency, wording, embedding and association
  (`normalization.py`); a query is as complex as it has tags, a data set as diverse as it has
  different ones, and `select.coverage` selects by both.
- From memory of the paper, which was not at hand: 20 rows for a tag, a cosine distance of 0.05, a
  support of 40 rows and a confidence of 0.99. They are meant for large pools.
- Ours: the words of the prompt; one request for the first user's turn of a conversation;
  `explain: false`; an answer without tags drops the row; what `normalization.py` calls ours.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, Literal

import polars as pl

from pipeline.context import Context
from pipeline.models.ask import ask
from pipeline.models.base import Decoding, Embedder, Engine, Request
from pipeline.models.structured_output import Unreadable, json_parser
from pipeline.types import Count, PositiveFraction, option_group
from schemas.records import first_user_turn
from stages._llm.lists import listed_items
from stages._llm.prompts import Prompts
from stages._llm.rows import to_json
from stages.tag.intent.normalization import (
    Clustering,
    Encode,
    Merge,
    Normalized,
    Thresholds,
    is_tag,
    normalize,
)

PROMPTS: Final = Prompts(__file__)

MERGES: Final = "merges.jsonl"
FACTS: Final = "tags.json"

_SCHEMA: Final = json.dumps(
    {
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "properties": {"tag": {"type": "string"}, "explanation": {"type": "string"}},
            "required": ["tag", "explanation"],
        },
    }
)
_VERDICT: Final = dict.fromkeys(("drop_reason", "evidence", "error"), pl.String())
_BATCH: Final = 4096
"""Tags given to the encoder at once."""


@option_group
class Open:
    """Open tags, normalized: InsTag (Lu et al. 2023, arXiv:2308.07074).

    Adds `raw_tags`, as the tagger wrote them, `tags`, normalized, and `tag_count`, the row's
    complexity; with `explain` `tag_explanations`, one for each raw tag. Its files are
    `merges.jsonl`, each tag that was merged or dropped with the similarity, or the support and
    the confidence, and `tags.json`, the number of different tags (the diversity) and of tags in a
    row (the complexity).

    Args:
        name: "open".
        column: A column with lists of tags, which are normalized as they are: no model is asked,
            and neither `raw_tags` nor `tag_explanations` is added.
        explain: Whether the model explains each tag, in JSON, as in the paper; else it lists the
            tags alone, which costs a few tokens.
        min_count: Least number of rows with a tag; tags of fewer rows are dropped.
        clustering: How tags are merged by the embedder's cosine. `leader`: into the most similar
            of the more frequent ones that are not merged themselves. `dbscan`: into the most
            frequent one of their cluster, as in the paper, which may not be similar to them.
        min_similarity: Least cosine of two tags that are merged.
        min_support: Least number of rows with both tags of a rule; null for no rules.
        min_confidence: Least part of the rows with a tag that have the one that it is merged
            into as well.
    """

    name: Literal["open"] = "open"
    column: str | None = None
    explain: bool = True
    min_count: Count = 20
    clustering: Clustering = "leader"
    min_similarity: PositiveFraction = 0.95
    min_support: Count | None = 40
    min_confidence: PositiveFraction = 0.99

    @property
    def thresholds(self) -> Thresholds:
        """When tags are dropped and merged."""
        return Thresholds(
            self.min_count,
            self.clustering,
            self.min_similarity,
            self.min_support,
            self.min_confidence,
        )


def open_columns(method: Open) -> dict[str, Any]:
    """The columns that the method adds, with their types."""
    texts = pl.List(pl.String)
    added = {"tags": texts, "tag_count": pl.Int32()}
    if method.column is not None:
        return added
    explained = {"tag_explanations": texts} if method.explain else {}
    return {"raw_tags": texts, **explained, **added, "intent_journal": texts}


def tag_open(
    ctx: Context,
    engine: Engine | None,
    rows: pl.DataFrame,
    method: Open,
    embedder: Embedder | None,
    max_tokens: int,
    seed: int,
) -> pl.DataFrame:
    """The columns of the method, and the verdict of each row.

    Args:
        ctx: Gets the files.
        engine: The tagger; None where the tags are in a column.
        rows: Conversations, or rows with tags.
        method: The options.
        embedder: By which tags are merged; None for no such merging.
        max_tokens: Limit of an answer in tokens.
        seed: Of the requests.
    """
    if engine is None:
        tagged = [_of_column(raw) for raw in rows[method.column or ""].to_list()]
    else:
        texts = rows.select(first_user_turn())["first_user_turn"].to_list()
        tagged = _ask(engine, texts, method.explain, max_tokens, seed)
    kept = [row for row in tagged if not row.get("drop_reason") and not row.get("error")]
    encode = _encoder(ctx, embedder) if embedder is not None else None
    raw_tags = [row["raw_tags"] for row in kept]
    normalized = normalize(raw_tags, method.thresholds, encode)
    for row, tags in zip(kept, normalized.tags, strict=True):
        row |= {"tags": tags, "tag_count": len(tags)}
    _write(ctx, raw_tags, normalized)
    columns = {**open_columns(method), **_VERDICT}
    return pl.DataFrame(
        [{column: row.get(column) for column in columns} for row in tagged], schema=columns
    )


def _of_column(raw: Sequence[str | None] | None) -> dict[str, Any]:
    if raw is None:
        return {"drop_reason": "missing_tags", "evidence": to_json({})}
    return {"raw_tags": [tag for tag in raw if tag is not None]}


def _ask(
    engine: Engine, texts: Sequence[str | None], explain: bool, max_tokens: int, seed: int
) -> list[dict[str, Any]]:
    """The raw tags of each request, or why it has none."""
    tagged: list[dict[str, Any]] = [{"intent_journal": []} for _ in texts]
    active = []
    for row, text in zip(tagged, texts, strict=True):
        if text and text.strip():
            active.append((row, PROMPTS.render("tags", instruction=text, explain=explain)))
        else:
            row |= {"drop_reason": "no_instruction", "evidence": to_json({})}
    decoding = Decoding(max_tokens, json_schema=_SCHEMA) if explain else Decoding(max_tokens)
    requests = [Request((("user", prompt),), decoding, seed) for _, prompt in active]
    answers = ask(engine, requests, parse=_explained if explain else _listed)
    for (row, _), answer in zip(active, answers, strict=True):
        row["intent_journal"] = answer.journal
        if answer.error is not None:
            row["error"] = answer.error
        elif answer.rejection is not None:
            reason, evidence = answer.rejection
            row |= {"drop_reason": reason, "evidence": to_json(evidence)}
        else:
            row |= answer.value
    return tagged


def _explained(text: str) -> dict[str, list[str]]:
    """Tags and explanations in JSON."""
    items = json_parser(_SCHEMA)(text)
    tags = {item["tag"].strip(): item["explanation"].strip() for item in items}
    tags.pop("", None)
    return {"raw_tags": _some(tags), "tag_explanations": [*tags.values()]}


def _listed(text: str) -> dict[str, list[str]]:
    """Tags in a list, one in a line."""
    return {"raw_tags": _some(dict.fromkeys(item.strip() for item in listed_items(text)))}


def _some(tags: dict[str, Any]) -> list[str]:
    """The tags, of which at least one must be a tag; sentences are dropped later, and noted."""
    if not any(map(is_tag, tags)):
        raise Unreadable("the answer must name tags of a few words each")
    return [*tags]


def _encoder(ctx: Context, embedder: Embedder) -> Encode:
    import numpy as np

    def encode(tags: Sequence[str]) -> Any:
        encoder = ctx.open(embedder)
        starts = range(0, len(tags), _BATCH)
        return np.concatenate([encoder.encode(tags[i : i + _BATCH]) for i in starts])

    return encode


def _write(ctx: Context, raw_tags: Sequence[Sequence[str]], normalized: Normalized) -> None:
    """The merges, and what they come to."""
    tags, merges = normalized
    lines = (json.dumps(_as_fields(merge), ensure_ascii=False) + "\n" for merge in merges)
    (ctx.files / MERGES).write_text("".join(lines), "utf-8")
    merged = Counter(merge.step for merge in merges if merge.into is not None)
    dropped = Counter(merge.step for merge in merges if merge.into is None)
    total = sum(map(len, tags))
    facts = {
        "rows": len(tags),
        "rows_without_tags": sum(not row for row in tags),
        "raw_tags": sum(map(len, raw_tags)),
        "distinct_raw_tags": len({tag for row in raw_tags for tag in row}),
        "distinct_tags": len({tag for row in tags for tag in row}),
        "tags_per_row": total / len(tags) if tags else None,
        "merged": dict(sorted(merged.items())),
        "dropped": dict(sorted(dropped.items())),
    }
    (ctx.files / FACTS).write_text(json.dumps(facts, indent=1) + "\n", "utf-8")


def _as_fields(merge: Merge) -> dict[str, Any]:
    """The fields of a merge that say something; `into` is null where a tag was dropped."""
    fields = merge._asdict()
    return {name: v for name, v in fields.items() if v is not None or name == "into"}
