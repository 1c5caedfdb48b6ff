"""The catalogue of methods: a recipe for each paper, and what its stages' docstrings say of it.

A recipe of a paper begins with a comment such as

    # Mosaic-IT, "Mosaic IT: Enhancing Instruction Tuning with Data Mosaics" (Li et al. 2024,
    # arXiv:2405.13326): random rows are joined. As in the paper: ... Ours: ...

and the module that implements it names the same arXiv number in its docstring. The catalogue is
read from these texts; nothing is imported and nothing registered.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Final

import yaml

from pipeline.recipe.discovery import available
from pipeline.recipe.docstrings import parse
from pipeline.stage import ROOT, python_name

_HEAD: Final = re.compile(
    r'(?P<name>[^"\n]+), "(?P<title>[^"]+)" '
    r"\((?P<authors>[^()]+) (?P<year>\d{4}), arXiv:(?P<arxiv>\d{4}\.\d{4,5})\)(?P<text>.*)",
    re.DOTALL,
)
_ARXIV: Final = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
_PART: Final = re.compile(
    r"(?P<paper>as in the (?:first |second )?papers?\b:?)"
    r"|(?P<code>as in the (?:authors'|unofficial) code\b(?: \([^()]*\))?,?:?)"
    r"|(?P<ours>ours:)|(?P<left>(?:left out|not there|not done):)",
    re.IGNORECASE,
)
_ASIDE: Final = re.compile(
    r"\. (?=(?:Put|Needs|Score|See|The (?:prompts|wording|engines|scorers)|Every prompt|`)\b)"
)
"""Where a sentence begins that tells how to use a recipe, not what its method is."""

_TRAINING: Final = "train."
_AROUND: Final = ("load.", "export.", _TRAINING, "report.", "publish.", "decontaminate.")
"""Families that are a method's own only where their docstring says what is as in its paper."""

_EMBEDDERS: Final = frozenset({"sentence-transformers", "static"})


@dataclass(frozen=True)
class Paper:
    """What a method was published in.

    Args:
        title: The title.
        authors: The first author and whoever else a citation names.
        year: The year.
        arxiv: The arXiv number.
    """

    title: str
    authors: str
    year: int
    arxiv: str


@dataclass(frozen=True)
class Method:
    """A method of the literature, and how to have it here.

    Args:
        name: What the field calls it.
        paper: Its paper.
        summary: What it does.
        stages: The stages that name the paper, in the order of the recipe; all those of the
            recipe that make, change, label or choose rows where none does; else those that train.
        recipe: The recipe that runs it.
        profiles: The recipe's profiles.
        as_in_paper: What is as in the paper.
        as_in_code: What is as in the authors' code and not in the paper.
        differs: What is this project's own.
        left_out: What the paper has and this project has not.
        needs: What it needs beside a CPU: "language model", "embeddings",
            "GPU training".
        options: The recipe's lines of `stages`, by name.
    """

    name: str
    paper: Paper
    summary: str
    stages: tuple[str, ...]
    recipe: str
    profiles: tuple[str, ...]
    as_in_paper: str
    as_in_code: str
    differs: str
    left_out: str
    needs: tuple[str, ...]
    options: Mapping[str, Mapping[str, Any]]

    def entry(self) -> dict[str, Any]:
        """The method as `methods --json` prints it."""
        paper = self.paper
        as_in = [
            self.as_in_paper,
            self.as_in_code and f"As in the authors' code: {self.as_in_code}",
        ]
        differs = [self.differs, self.left_out and f"Left out: {self.left_out}"]
        return {
            "name": self.name,
            "paper": {"title": paper.title, "year": paper.year, "arxiv": paper.arxiv},
            "stage": ", ".join(self.stages),
            "recipe": self.recipe,
            "as_in_paper": "\n".join(filter(None, as_in)),
            "differs": "\n".join(filter(None, differs)),
            "needs": ", ".join(self.needs) or "nothing",
        }


def methods(root: Path = ROOT) -> list[Method]:
    """All methods by name.

    Args:
        root: The repository whose recipes and stages are read.
    """
    documented = _papers_of_stages(root)
    read = (_method(path, documented) for path in (root / "pipeline/recipes").glob("*.yaml"))
    return sorted((m for m in read if m), key=lambda method: method.name.casefold())


def parts(text: str) -> dict[str, str]:
    """What a text says is as in the paper, as in the authors' code, ours and left out.

    Args:
        text: A docstring or a comment.

    Returns:
        The text of `paper`, `code`, `ours` and `left`, empty where it says nothing of them.

    Example:
        >>> parts("As in the paper: four ways. Ours: the wording. Needs a GPU.")["ours"]
        'The wording.'
    """
    words = _ASIDE.split(" ".join(text.split()) + " ")[0]
    said: dict[str, list[str]] = {"paper": [], "code": [], "ours": [], "left": []}
    marks = list(_PART.finditer(words))
    ends = [*(mark.start() for mark in marks[1:]), len(words)]
    for mark, end in zip(marks, ends, strict=False):
        body = words[mark.end() : end].strip(" -;,.")
        if mark.lastgroup and body:
            said[mark.lastgroup].append(f"{body[0].upper()}{body[1:]}.")
    return {name: " ".join(bodies) for name, bodies in said.items()}


def _method(path: Path, documented: Mapping[str, Mapping[str, list[str]]]) -> Method | None:
    """The method of a recipe, None where its comment names no paper in the form above."""
    text = path.read_text("utf-8")
    comment = " ".join(line.lstrip("# ") for line in _comment(text))
    if not (head := _HEAD.match(comment)):
        return None
    document = yaml.safe_load(text)
    steps = document["stages"].values()
    implementing = documented.get(head["arxiv"], {})
    used = dict.fromkeys(step["uses"] for step in steps)
    stages = [stage for stage in used if stage in implementing]
    texts = [head["text"], *chain.from_iterable(implementing[stage] for stage in stages)]
    joined = {
        part: " ".join(filter(None, (parts(text)[part] for text in texts)))
        for part in ("paper", "code", "ours", "left")
    }
    own = stages or [stage for stage in used if not stage.startswith(_AROUND)]
    own = own or [stage for stage in used if stage.startswith(_TRAINING)]
    return Method(
        name=head["name"],
        paper=Paper(head["title"], head["authors"], int(head["year"]), head["arxiv"]),
        summary=_summary(head["text"]),
        stages=tuple(own),
        recipe=path.stem,
        profiles=tuple(document.get("profiles", ())),
        as_in_paper=joined["paper"],
        as_in_code=joined["code"],
        differs=joined["ours"],
        left_out=joined["left"],
        needs=tuple(_needs(document)),
        options={n: s for n, s in document["stages"].items() if s["uses"] in own},
    )


def _comment(text: str) -> Iterator[str]:
    """The lines of the comment with which a text begins."""
    for line in text.splitlines():
        if not line.startswith("#"):
            return
        yield line


def _summary(text: str) -> str:
    """The first sentences, up to what is as in the paper."""
    mark = _PART.search(text)
    words = text[: mark.start()] if mark else text
    words = words.lstrip(" :,.").removeprefix("whole: ").strip(" ;-.")
    return f"{words[:1].upper()}{words[1:]}."


def _needs(document: Mapping[str, Any]) -> Iterator[str]:
    """What the models of a recipe and its trainings need."""
    models = document.get("models", {})
    steps = list(document["stages"].values())
    used = {
        name for step in steps if not step["uses"].startswith(_TRAINING) for name in _names(step)
    }
    engines = {
        models[name].get("engine") or ("a trained model" if "from" in models[name] else None)
        for name in used & set(models)
    }
    if engines - _EMBEDDERS - {None}:
        yield "language model"
    if engines & _EMBEDDERS:
        yield "embeddings"
    if any(step["uses"].startswith(_TRAINING) for step in steps):
        yield "GPU training"


def _names(value: Any) -> Iterator[str]:
    """All texts of a nested value, the names of models among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from chain.from_iterable(map(_names, value.values()))
    elif isinstance(value, Iterable):
        yield from chain.from_iterable(map(_names, value))


@cache
def _papers_of_stages(root: Path) -> Mapping[str, Mapping[str, list[str]]]:
    """By arXiv number and stage: what each module of the stage says of that paper."""
    papers: dict[str, dict[str, list[str]]] = {}
    for name in available(root / "stages"):
        family, _, method = name.partition(".")
        place = root / "stages" / family / python_name(method)
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
        for docstring in chain.from_iterable(map(_docstrings, files)):
            for arxiv, text in _texts_by_paper(docstring).items():
                if not name.startswith(_AROUND) or any(parts(text).values()):
                    papers.setdefault(arxiv, {}).setdefault(name, []).append(text)
    return papers


def _docstrings(file: Path) -> Iterator[str]:
    """Those of a module and of its classes, without what they say of arguments."""
    tree = ast.parse(file.read_text("utf-8"))
    for node in (tree, *tree.body):
        if isinstance(node, ast.Module | ast.ClassDef):
            yield parse(ast.get_docstring(node) or "").text


def _texts_by_paper(docstring: str) -> dict[str, str]:
    """By arXiv number: the paragraphs that are about that paper.

    A paragraph or an item of a list is about the papers that it names before it says what is
    theirs; one that names none goes on about the last ones.
    """
    texts: dict[str, list[str]] = {}
    current: list[str] = []
    for block in re.split(r"\n\s*\n|\n(?=- )", docstring):
        mark = _PART.search(block)
        current = _ARXIV.findall(block[: mark.start()] if mark else block) or current
        for arxiv in dict.fromkeys(current):
            texts.setdefault(arxiv, []).append(block.removeprefix("- "))
    return {arxiv: "\n".join(blocks) for arxiv, blocks in texts.items()}
