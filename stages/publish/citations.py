"""The papers that the docstrings of stages name, and their BibTeX.

A docstring names a paper as "Li et al. 2023, arXiv:2308.12032", by a DOI, or by authors and
year alone. An entry holds what stands there: no title and no author is added.
"""

from __future__ import annotations

import ast
import inspect
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple, get_type_hints

from pipeline.recipe.docstrings import docstring_of
from pipeline.recipe.problems import option_groups
from pipeline.stage import ROOT, Stage

_NAME: Final = r"(?:(?:von|van|de|della) )?[A-Z][\w'’-]*[a-z]"
_AUTHORS: Final = rf"{_NAME}(?: et al\.|(?:, {_NAME})*(?:,? and {_NAME})?)"
_YEAR: Final = r"(?:19|20)\d\d(?!\d|\.\d|-)"
_ID: Final = r"arXiv:(?P<arxiv>\d{4}\.\d{4,5})|doi:(?P<doi>10\.\d{4,9}/[^\s,;)\]]*[^\s,;)\].])"
_MENTION: Final = re.compile(
    rf"(?:(?P<authors>{_AUTHORS}) (?P<year>{_YEAR})(?: \([^()]{{1,40}}\))?,? \(?"
    rf"|(?P<undated>{_NAME} et al\.), )?(?:{_ID})"
    rf"|(?P<bare_authors>{_AUTHORS}) (?P<bare_year>{_YEAR})"
)
"""A paper with an identifier, or authors and year without one."""

_NO_NAMES: Final = frozenset(
    {
        *("January", "February", "March", "April", "May", "June", "July", "August"),
        *("September", "October", "November", "December", "In", "Of", "Since", "The"),
    }
)
"""What stands before a year and is no author."""


class Paper(NamedTuple):
    """A paper as docstrings name it.

    Attributes:
        authors: The authors, such as "Li et al."; empty where none are named.
        year: The year; of a paper without one, that of its arXiv number, else empty.
        arxiv: The arXiv number, else empty.
        doi: The DOI, else empty.
    """

    authors: str
    year: str
    arxiv: str = ""
    doi: str = ""

    @property
    def url(self) -> str:
        """Where it is; empty where only authors and year are known."""
        if self.arxiv:
            return f"https://arxiv.org/abs/{self.arxiv}"
        return f"https://doi.org/{self.doi}" if self.doi else ""

    @property
    def label(self) -> str:
        """How a text names it."""
        return f"{self.authors} {self.year}".strip() if self.authors else f"arXiv:{self.arxiv}"

    @property
    def key(self) -> str:
        """Its key in a bibliography: first author, year and identifier in ASCII."""
        first = re.match(_NAME, self.authors)
        name = unicodedata.normalize("NFKD", first[0] if first else "arxiv")
        ascii_name = re.sub(r"[^A-Za-z0-9]", "", name.encode("ascii", "ignore").decode()).lower()
        tail = re.sub(r"[^A-Za-z0-9.]+", "-", self.arxiv)
        return f"{ascii_name}{self.year}" + (f"-{tail}" if tail else "")


def papers_in(text: str) -> list[Paper]:
    """The papers that a docstring names, each once, in the order of the text.

    Args:
        text: A docstring.

    Example:
        >>> papers_in("The rule of Li et al. 2023, arXiv:2308.12032; see Minoux 1978.")[0].url
        'https://arxiv.org/abs/2308.12032'
        >>> [paper.label for paper in papers_in("k-means++ (Arthur and Vassilvitskii, SODA 2007)")]
        ['Arthur and Vassilvitskii 2007']
    """
    flat = re.sub(rf"({_AUTHORS}), [A-Z]{{3,}} ({_YEAR})", r"\1 \2", " ".join(text.split()))
    papers: dict[str, Paper] = {}
    for match in _MENTION.finditer(flat):
        parts = {name: value or "" for name, value in match.groupdict().items()}
        authors = parts["authors"] or parts["undated"] or parts["bare_authors"]
        if authors.split(" ")[0].rstrip(",") in _NO_NAMES:
            continue
        year = parts["year"] or parts["bare_year"] or _arxiv_year(parts["arxiv"])
        paper = Paper(authors, year, parts["arxiv"], parts["doi"])
        papers.setdefault(paper.arxiv or paper.doi or paper.label, paper)
    return list(papers.values())


def _arxiv_year(number: str) -> str:
    """The year in which an arXiv number was given, which its first two digits say."""
    return f"20{number[:2]}" if number else ""


def cited(stage: Stage, options: Mapping[str, Any]) -> list[Paper]:
    """The papers of a stage's method.

    Where options choose methods whose docstrings name papers, these; otherwise those of the
    stage's own docstrings. What is named by authors and year alone gets its identifier from
    the other docstrings, where they agree.

    Args:
        stage: The stage.
        options: Its options as a manifest has them.
    """
    groups = [g for o in stage.options for g in _chosen(o.annotation, options.get(o.name))]
    papers = [paper for group in groups for paper in _of_group(group, stage)]
    if not papers:
        module = inspect.getmodule(stage.function)
        docs = [inspect.getdoc(documented) or "" for documented in (module, stage.function)]
        papers = [paper for doc in docs for paper in papers_in(doc)]
    return distinct(_completed(paper, stage.file.parent) for paper in papers)


def _chosen(annotation: Any, value: Any) -> Iterator[type]:
    """The groups of options that a value chooses, those within them too."""
    if isinstance(value, list | tuple):
        for member in value:
            yield from _chosen(annotation, member)
    group = chosen_group(annotation, value)
    if group is None:
        return
    yield group
    hints = get_type_hints(group, include_extras=True)
    for name, inner in value.items():
        if name in hints:
            yield from _chosen(hints[name], inner)


def chosen_group(annotation: Any, value: Any) -> type | None:
    """The group of options that a value chooses, by its name or as the only one; None without.

    Args:
        annotation: The option's type.
        value: Its value as a manifest has it.
    """
    if not isinstance(value, Mapping):
        return None
    groups = option_groups(annotation)
    only = next(iter(groups.values())) if len(groups) == 1 else None
    return groups.get(str(value.get("name", ""))) or only


def _of_group(group: type, stage: Stage) -> list[Paper]:
    """The papers of a method: those of its class, else of the module that is its own."""
    papers = papers_in(docstring_of(group).text)
    module = inspect.getmodule(group)
    is_own = module is not None and module is not inspect.getmodule(stage.function)
    return papers or (papers_in(inspect.getdoc(module) or "") if is_own else [])


def distinct(papers: Iterable[Paper]) -> list[Paper]:
    """The papers, each once, in their order.

    Args:
        papers: The papers.
    """
    return list({paper.arxiv or paper.doi or paper.label: paper for paper in papers}.values())


def _completed(paper: Paper, folder: Path) -> Paper:
    """The paper with what other docstrings say of it: an identifier, or its authors."""
    index = _named_anywhere()
    if paper.arxiv and not paper.authors:
        return next((p for p, _ in index if p.arxiv == paper.arxiv and p.authors), paper)
    if paper.url:
        return paper
    same = [(p, path) for p, path in index if p.url and p.label == paper.label]
    near = [(p, path) for p, path in same if path.is_relative_to(folder)]
    for candidates in (near, same):
        if len(distinct(p for p, _ in candidates)) == 1:
            return candidates[0][0]
    return paper


@cache
def _named_anywhere() -> list[tuple[Paper, Path]]:
    """Every paper that a docstring of ours names, with the file."""
    return [
        (paper, path)
        for path in sorted((ROOT / "stages").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        for paper in papers_in(ast.get_docstring(node) or "")
    ]


def bibtex(papers: Iterable[Paper]) -> str:
    """The entries of a bibliography, by key.

    Args:
        papers: The papers.

    Example:
        >>> print(bibtex([Paper("Li et al.", "2023", arxiv="2308.12032")]))
        @misc{li2023-2308.12032,
          author = {Li and others},
          year = {2023},
          eprint = {2308.12032},
          archiveprefix = {arXiv},
          url = {https://arxiv.org/abs/2308.12032},
        }
    """
    entries = {paper.key: _entry(paper) for paper in distinct(papers)}
    return "\n\n".join(entries[key] for key in sorted(entries))


def _entry(paper: Paper) -> str:
    names = re.sub(r" et al\.$", " and others", paper.authors)
    fields = {
        "author": re.sub(r", (?:and )?", " and ", names),
        "year": paper.year,
        "doi": paper.doi,
        "eprint": paper.arxiv,
        "archiveprefix": "arXiv" if paper.arxiv else "",
        "url": paper.url,
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@misc{{{paper.key},", *lines, "}"])
