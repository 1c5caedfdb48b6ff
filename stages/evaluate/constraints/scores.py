"""What is counted over all rows: by prompt, by constraint, by kind, and over repeated answers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from stages._constraints.constraint import Constraint


@dataclass(frozen=True)
class Followed:
    """What an answer, or all answers of a conversation, follow.

    Attributes:
        prompt: The id of the prompt.
        kinds: The kinds, one for each answer that is asked for one.
        strict: Whether each is followed strictly.
        loose: Whether each is followed loosely.
    """

    prompt: str
    kinds: Sequence[str]
    strict: Sequence[bool]
    loose: Sequence[bool]

    @property
    def rate(self) -> float:
        """The share that is followed strictly (MMMT-IF's PIF)."""
        return sum(self.strict) / len(self.strict)


def followed(prompt: str, turns: Iterable[tuple[str, Sequence[Constraint]]]) -> Followed:
    """Check answers.

    Args:
        prompt: The id of the prompt.
        turns: Each answer with its constraints.
    """
    pairs = [(text, one) for text, constraints in turns for one in constraints]
    return Followed(
        prompt,
        [one.kind for _, one in pairs],
        [one.holds(text) for text, one in pairs],
        [one.holds_loosely(text) for text, one in pairs],
    )


def scores(rows: Sequence[Followed]) -> dict[str, Any]:
    """The scores of a benchmark.

    Args:
        rows: What every row follows, each of at least one constraint.

    Returns:
        `rows`; `strict` and `loose`, each with `prompt` (rows that follow all), `instruction` (of
        all constraints together), `group` and `kind` (of those of one); `pif`, the mean of the
        rows' shares; `repeats`: for prompts with so many answers, how many prompts there are and of
        which share at least 1, 2, ... of these follow all.
    """
    return {
        "rows": len(rows),
        "strict": _accuracies([(row.kinds, row.strict) for row in rows]),
        "loose": _accuracies([(row.kinds, row.loose) for row in rows]),
        "pif": _mean([row.rate for row in rows]),
        "repeats": _repeats(rows),
    }


def prompt_rates(rows: Sequence[Followed]) -> dict[str, float]:
    """The share of the answers to each prompt that follow all constraints strictly.

    Args:
        rows: What every answer follows; those of one prompt share its id.
    """
    answers = Counter(row.prompt for row in rows)
    right = Counter(row.prompt for row in rows if all(row.strict))
    return {prompt: right[prompt] / number for prompt, number in answers.items()}


def _accuracies(rows: Sequence[tuple[Sequence[str], Sequence[bool]]]) -> dict[str, Any]:
    kinds: dict[str, list[bool]] = defaultdict(list)
    groups: dict[str, list[bool]] = defaultdict(list)
    for names, flags in rows:
        for name, flag in zip(names, flags, strict=True):
            kinds[name].append(flag)
            groups[name.partition(":")[0]].append(flag)
    return {
        "prompt": _mean([all(flags) for _, flags in rows]),
        "instruction": _mean([flag for _, flags in rows for flag in flags]),
        "group": {name: _mean(groups[name]) for name in sorted(groups)},
        "kind": {name: _mean(kinds[name]) for name in sorted(kinds)},
    }


def _repeats(rows: Sequence[Followed]) -> dict[str, Any]:
    """By the number of answers that a prompt has; those of one prompt share its id."""
    answers = Counter(row.prompt for row in rows)
    right = Counter(row.prompt for row in rows if all(row.strict))
    counts: dict[int, list[int]] = defaultdict(list)
    for prompt, number in answers.items():
        counts[number].append(right[prompt])
    return {
        str(number): {
            "prompts": len(counts[number]),
            "at_least": {
                str(k): _mean([count >= k for count in counts[number]])
                for k in range(1, number + 1)
            },
        }
        for number in sorted(counts)
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def as_markdown(result: dict[str, Any]) -> str:
    """The scores as tables.

    Args:
        result: What `scores` returned.
    """
    lines = [
        "# Constraints that answers follow",
        f"{result['rows']:,} rows with constraints. Share of each that is followed: {_pif(result)}",
        _table(["level", "strict", "loose"], _levels(result)),
    ]
    repeats = [
        [n, k, share]
        for n, of in result["repeats"].items()
        for k, share in of["at_least"].items()
        if n != "1"
    ]
    if repeats:
        lines.append("Prompts of which at least K of N answers follow all (strict):")
        lines.append(_table(["N", "K", "share"], repeats))
    return "\n\n".join(lines) + "\n"


def _pif(result: dict[str, Any]) -> str:
    return "none." if result["pif"] is None else f"{result['pif']:.4f} (PIF)."


def _levels(result: dict[str, Any]) -> list[list[Any]]:
    strict, loose = result["strict"], result["loose"]
    rows = [[level, strict[level], loose[level]] for level in ("prompt", "instruction")]
    for level in ("group", "kind"):
        rows += [[f"{level} {n}", share, loose[level][n]] for n, share in strict[level].items()]
    return rows


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = [[f"{v:.4f}" if isinstance(v, float) else str(v) for v in row] for row in rows]
    lines = [header, ["---"] * len(header), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
