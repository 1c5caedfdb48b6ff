"""The lists of stages and methods in the README, written from these themselves.

`make docs` and `make stage` write them anew, so that a new stage or recipe is listed without
anybody listing it.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

from pipeline.recipe.discovery import available
from pipeline.recipe.methods import methods
from pipeline.stage import ROOT

BEGIN: Final = "<!-- stages: written by make docs -->"
END: Final = "<!-- end of stages -->"
BEGIN_METHODS: Final = "<!-- methods: written by make docs -->"
END_METHODS: Final = "<!-- end of methods -->"


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


def method_table(root: Path = ROOT) -> str:
    """A table of the methods of the literature, with their papers and recipes.

    Args:
        root: The repository whose `pipeline/recipes/` is listed.
    """
    rows = [
        f"| {m.name} | {m.paper.title} ({m.paper.authors} {m.paper.year}, arXiv:{m.paper.arxiv}) "
        f"| `{m.recipe}` |"
        for m in methods(root)
    ]
    return "\n".join(["| method | paper | recipe |", "|---|---|---|", *rows])


def update_readme(root: Path = ROOT) -> bool:
    """Write the tables between their marks in the README; whether anything changed."""
    readme = root / "README.md"
    text = readme.read_text("utf-8")
    new = _between(text, BEGIN, stage_table(root), END)
    new = _between(new, BEGIN_METHODS, method_table(root), END_METHODS)
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
