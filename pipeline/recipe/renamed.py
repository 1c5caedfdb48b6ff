"""Former names of options and edges, as the changelog lists them.

The table of renamed options in `CHANGELOG.md` is the only list; it is read when a recipe
has a name that its stage does not know.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from functools import cache
from typing import Final

from pipeline import ROOT
from pipeline.recipe.problems import RENAMED

CHANGELOG: Final = ROOT / "CHANGELOG.md"
_ROW: Final = re.compile(r"\| (?P<stages>[^|`]+?) (?:\([^|]*\) )?\| (?P<old>.+?) \| (?P<new>.+) \|")
_FORMER: Final = re.compile(r"(?:option |edge )?`")
"""Rows about evidence, drop reasons and defaults begin with other words."""


def renamed_hint(stage: str, name: str) -> str | None:
    """What became of a former option or edge of a stage; None for a name that never was one.

    Args:
        stage: The stage's name.
        name: The option or edge.

    Example:
        >>> renamed_hint("select.top", "minimum")
        'renamed (see CHANGELOG.md): min_score'
        >>> renamed_hint("select.top", "budget")
    """
    new = [names[name] for stages, names in _rows() if name in names and _is_among(stage, stages)]
    return f"{RENAMED}{' or '.join(dict.fromkeys(new))}" if new else None


def _is_among(stage: str, stages: str) -> bool:
    """Whether a cell names the stage: "load.records, concat" or "all of dedup.*"."""
    family = ""
    for name in stages.removeprefix("all of ").split(", "):
        family = name.partition(".")[0] if "." in name else family
        if fnmatchcase(stage, name if "." in name else f"{family}.{name}"):
            return True
    return False


@cache
def _rows() -> list[tuple[str, dict[str, str]]]:
    """Stages, and the new name of each former one, for each row of the table."""
    try:
        text = CHANGELOG.read_text("utf-8")
    except OSError:
        return []
    rows = []
    for match in map(_ROW.fullmatch, text.splitlines()):
        if match and _FORMER.match(match["old"]):
            former = re.findall(r"(?:^|, )(\w+)(?=:|, |$)", ", ".join(_quoted(match["old"])))
            new = _quoted(match["new"])
            if len(new) != len(former) or not all(name.isidentifier() for name in new):
                new = [match["new"].replace("`", "")] * len(former)
            rows.append((match["stages"], dict(zip(former, new, strict=True))))
    return rows


def _quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)
