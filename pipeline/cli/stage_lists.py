"""The lists of stages and recipes in the README, written from these themselves.

`make docs` and `make stage` write them anew, so that a new stage or recipe is listed without
anybody listing it.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

from pipeline.recipe.discovery import available
from pipeline.stage import ROOT

BEGIN: Final = "<!-- stages: written by make docs -->"
END: Final = "<!-- end of stages -->"
BEGIN_RECIPES: Final = "<!-- recipes: written by make docs -->"
END_RECIPES: Final = "<!-- end of recipes -->"
_PAPER: Final = re.compile(r"(?P<title>.+?) \((?P<paper>[^()]*arXiv:[\d.]+)\)")


def stage_table(root: Path = ROOT) -> str:
    """A table of all families: what each is for, and its stages.

    Args:
        root: The repository whose `stages/` is listed; nothing is imported.
    """
    families: dict[str, list[str]] = {}
    for name in available(root / "stages"):
        family, _, method = name.partition(".")
        families.setdefault(family, []).append(f"`{method}`")
    rows = [
        f"| {family} | {_purpose(root / 'stages' / family)} | {' '.join(methods)} |"
        for family, methods in families.items()
    ]
    return "\n".join(["| family | what it is for | stages |", "|---|---|---|", *rows])


def recipe_table(root: Path = ROOT) -> str:
    """A table of the recipes of the literature, each with the paper that its first lines name.

    Args:
        root: The repository whose `pipeline/recipes/` is listed.
    """
    rows = []
    for path in sorted((root / "pipeline/recipes").glob("*.yaml")):
        comment = " ".join(re.findall(r"^# (.*)", path.read_text("utf-8"), re.MULTILINE)[:3])
        if match := _PAPER.match(comment):
            rows.append(f"| `{path.stem}` | {match['title']} | {match['paper']} |")
    return "\n".join(["| recipe | method | paper |", "|---|---|---|", *rows])


def update_readme(root: Path = ROOT) -> bool:
    """Write the tables between their marks in the README; whether anything changed."""
    readme = root / "README.md"
    text = readme.read_text("utf-8")
    new = _between(text, BEGIN, stage_table(root), END)
    new = _between(new, BEGIN_RECIPES, recipe_table(root), END_RECIPES)
    readme.write_text(new, "utf-8")
    return new != text


def _between(text: str, begin: str, table: str, end: str) -> str:
    """The text with a table between two marks; unchanged without them."""
    head, first, rest = text.partition(begin)
    _, last, tail = rest.partition(end)
    return f"{head}{begin}\n{table}\n{end}{tail}" if first and last else text


def _purpose(family: Path) -> str:
    """The first line of the family's docstring."""
    file = family / "__init__.py"
    text = ast.get_docstring(ast.parse(file.read_text("utf-8"))) if file.is_file() else ""
    return (text or "").split("\n")[0].rstrip(".")
