"""How the rows of a source are read: what its names mean, and what may stay aside.

A record has no place for images or for keys that nobody knows. Where such a field has a value
and nobody has decided about it, the row fails and the message names the field, since without it
the row could mean something else, or be taken for the duplicate of another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from pipeline.errors import OptionError
from schemas.records import Role
from stages.load._chat.turns import ROLES, Row, Unusable, is_missing

Reasoning = Literal["split", "keep", "drop"]
"""What becomes of reasoning in marks: a field of the turn, the text that it is, or nothing."""

Fields = dict[str, str | tuple[str, ...] | dict[str, str]]
"""The option: the source's name for each field, and the lists `keep` and `ignore` and the names
`roles`."""

_MEDIA_FORMS: Final = (
    "", "_base64", "_bytes", "_data", "_file", "_files", "_path", "_paths", "_url", "_urls",
)  # fmt: skip
MEDIA: Final = frozenset(
    {
        f"{medium}{form}"
        for medium in ("image", "images", "img", "audio", "audios", "video", "videos")
        for form in _MEDIA_FORMS
    }
    | {"attachments", "pixel_values"}
)
"""Fields beside the turns without which these mean something else."""

HARMLESS: Final = frozenset({
    "annotations", "conversation_id", "country", "create_time", "created", "created_at", "date",
    "emoji", "emojis", "eos", "feedback", "finish_reason", "hash", "hashed_ip", "header", "id",
    "idx", "index", "labels", "lang", "language", "likes", "markdown", "message_id", "meta",
    "metadata", "model", "model_name", "moderation", "num_tokens", "openai_moderation",
    "parent_id", "quality", "rank", "rating", "redacted", "review_count", "score", "scores",
    "sentiment", "source", "state", "status", "step", "synthetic", "system_fingerprint",
    "temperature", "time", "timestamp", "token_count", "token_counter", "tokens", "top_p",
    "toxic", "toxicity", "turn", "turn_id", "turn_identifier", "updated_at", "url", "usage",
    "uuid", "votes",
})  # fmt: skip
"""Keys of a turn that say something about it, and nothing in it."""


@dataclass(frozen=True)
class Source:
    """How the rows of a source are read.

    Attributes:
        names: The source's name for each of a format's fields.
        roles: Our name for each of the source's roles, in lower case.
        keep: Fields that stay in `extra` and count for the identity.
        ignore: Fields that stay in `extra` alone.
        reasoning: What becomes of reasoning in marks.
    """

    names: Mapping[str, str]
    roles: Mapping[str, str]
    keep: frozenset[str]
    ignore: frozenset[str]
    reasoning: Reasoning = "split"

    def decided(self, field: str) -> bool:
        """Whether the recipe says what becomes of a field."""
        return field in self.keep or field in self.ignore


def source_of(fields: Fields | None, reasoning: Reasoning = "split") -> Source:
    """How the rows are read by the options of a recipe.

    Args:
        fields: Names by field, and `keep`, `ignore` and `roles`.
        reasoning: What becomes of reasoning in marks.

    Raises:
        OptionError: One of them is of another type than it must be.

    >>> source_of({"prompt": "q", "roles": {"Doctor": "assistant"}}).roles["doctor"]
    'assistant'
    """
    names = {k: v for k, v in (fields or {}).items() if k not in ("keep", "ignore", "roles")}
    wrong = next((name for name, value in names.items() if not isinstance(value, str)), None)
    if wrong is not None:
        raise OptionError("fields", f"{wrong} must be the name of a field, got {names[wrong]!r}")
    roles = (fields or {}).get("roles", {})
    if not isinstance(roles, dict) or not set(roles.values()) <= set(get_args(Role)):
        raise OptionError(
            "fields",
            f"roles must be {{source's role: system, user, assistant or tool}}, got {roles!r}",
        )
    return Source(
        names={name: str(value) for name, value in names.items()},
        roles={**ROLES, **{name.strip().lower(): role for name, role in roles.items()}},
        keep=_names_in(fields, "keep"),
        ignore=_names_in(fields, "ignore"),
        reasoning=reasoning,
    )


def _names_in(fields: Fields | None, option: str) -> frozenset[str]:
    names = (fields or {}).get(option, ())
    if not isinstance(names, list | tuple):
        raise OptionError("fields", f"{option} must be a list of fields, got {names!r}")
    return frozenset(names)


PLAIN: Final = source_of(None)
"""A source of which a recipe says nothing."""


def rename_fields(row: Row, fields: Mapping[str, str]) -> tuple[Row, Row]:
    """The row with the names of its format, and the fields that these names replace.

    Args:
        row: A row of a source.
        fields: The source's name for each of the format's.

    >>> rename_fields({"q": "Why?", "prompt": 7}, {"prompt": "q"})
    ({'prompt': 'Why?'}, {'prompt': 7})
    """
    names = set(fields.values())
    hidden = {name: row[name] for name in fields if name in row and name not in names}
    kept = {name: v for name, v in row.items() if name not in names and name not in hidden}
    return kept | {field: row[name] for field, name in fields.items() if name in row}, hidden


def check_media(row: Row, source: Source) -> None:
    """Refuse a row beside whose turns are images or sounds that nobody has decided about.

    Raises:
        Unusable: There are.
    """
    check_known({name: row[name] for name in MEDIA & row.keys()}, source, frozenset())


def check_known(fields: Mapping[str, Any], source: Source, known: Iterable[str]) -> None:
    """Refuse fields that are neither empty, known nor decided.

    Args:
        fields: Fields of a row or a turn that no format uses.
        source: What the recipe says.
        known: Fields that may stay in `extra`.

    Raises:
        Unusable: With the name of the first one.

    >>> check_known({"audio": None, "id": 3}, PLAIN, HARMLESS)
    """
    for name, value in fields.items():
        if not (is_nothing(value) or name in known or source.decided(name)):
            raise Unusable(f"the field {name!r} has no place in a record: {decide(name)}")


def decide(name: str) -> str:
    """How a recipe decides about a field."""
    return (
        f"write fields: {{keep: [{name}]}} (it stays in extra, and rows that differ in it "
        f"differ) or fields: {{ignore: [{name}]}}"
    )


def is_nothing(value: Any) -> bool:
    """Whether a value says nothing: null, NaN, or an empty text, list or object.

    >>> is_nothing([]), is_nothing(0)
    (True, False)
    """
    return is_missing(value) or (isinstance(value, str | list | dict) and not value)


def kept_fields(extra: Mapping[str, Any], source: Source) -> Row:
    """The fields of `extra`, of the row or of its turns, that count for the identity.

    Args:
        extra: The row's other fields.
        source: Which count.

    >>> turns = [{"mood": "good"}, {}]
    >>> kept_fields({"messages": turns, "id": 3}, source_of({"keep": ("mood",)}))
    {'messages': [{'mood': 'good'}, {}]}
    """
    kept: Row = {}
    for name, value in extra.items():
        if name in source.keep:
            kept[name] = value
        elif isinstance(value, list):
            of_turns = [_kept_of_turn(turn, source) for turn in value]
            if any(of_turns):
                kept[name] = of_turns
    return {name: value for name, value in kept.items() if not is_nothing(value)}


def _kept_of_turn(turn: Any, source: Source) -> Row:
    """The kept keys of a turn, and the parts of its content whose type is kept."""
    if not isinstance(turn, dict):
        return {}
    kept = {k: v for k, v in turn.items() if k in source.keep and not is_nothing(v)}
    for name, value in turn.items():
        if isinstance(value, list) and name not in kept:
            parts = [*_kept_parts(value, source)]
            kept |= {name: parts} if parts else {}
    return kept


def _kept_parts(parts: list[Any], source: Source) -> Iterator[Row]:
    """The parts whose type is kept, those within results of tools too."""
    for part in parts:
        if isinstance(part, dict) and part.get("type") in source.keep:
            yield part
        elif isinstance(part, dict) and isinstance(part.get("content"), list):
            yield from _kept_parts(part["content"], source)
