"""The papers that docstrings name: all of them are found, and nothing is added to them."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.recipe.discovery import available, find
from pipeline.stage import ROOT
from stages.publish.citations import Paper, bibtex, cited, papers_in

NAMES_A_PAPER = re.compile(r"arXiv:\d|doi:10\.|et al\.,? (?:\(?\d{4}|arXiv)")


def docstrings() -> Iterator[tuple[Path, str]]:
    for path in sorted((ROOT / "stages").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                yield path, " ".join((ast.get_docstring(node) or "").split())


def test_every_identifier_and_every_et_al_of_all_docstrings_is_a_paper() -> None:
    count = 0
    for path, text in docstrings():
        papers = papers_in(text)
        numbers = set(re.findall(r"arXiv:(\d{4}\.\d{4,5})", text))
        assert {p.arxiv for p in papers if p.arxiv} == numbers, path
        assert len({p.doi for p in papers if p.doi}) == len(set(re.findall("doi:10", text))), path
        for authors, year in re.findall(r"([A-ZÀ-Ž][\w-]+ et al\.) (\d{4})", text):
            assert any(p.authors == authors and p.year == year for p in papers), (path, authors)
        count += len(papers)
    assert count > 150


@pytest.mark.parametrize("name", available())
def test_a_stage_whose_docstring_names_a_paper_has_a_citation(name: str) -> None:
    stage = find(name)
    docs = [inspect.getdoc(d) or "" for d in (inspect.getmodule(stage.function), stage.function)]
    text = " ".join(" ".join(docs).split())
    if NAMES_A_PAPER.search(text):
        assert cited(stage, {})


def test_authors_and_titles_are_those_of_the_docstring() -> None:
    """Every word of an entry's author stands in some docstring, and no entry has a title."""
    everything = " ".join(text for _, text in docstrings())
    entries = bibtex(paper for _, text in docstrings() for paper in papers_in(text))
    assert "title" not in entries
    for names in re.findall(r"author = \{(.*)\}", entries):
        for name in re.split(r" and ", names):
            assert name == "others" or name in everything


@pytest.mark.parametrize(
    ("text", "paper"),
    [
        ("IFD (Li et al. 2023, arXiv:2308.12032).", Paper("Li et al.", "2023", "2308.12032")),
        ("Qwen2: Yang et al. 2024 (Qwen2), arXiv:2407.10671, section 5", None),
        ("splitmix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195).", None),
        ("after Singh et al., arXiv:2411.03923.", Paper("Singh et al.", "2024", "2411.03923")),
        ("PASER (arXiv:2502.12594)", Paper("", "2025", "2502.12594")),
        ("Zheng et al. 2023 (arXiv:2306.05685)", Paper("Zheng et al.", "2023", "2306.05685")),
        ("Köpf et al. 2023, arXiv:2304.07327", Paper("Köpf et al.", "2023", "2304.07327")),
        ("lazily (Minoux 1978)", Paper("Minoux", "1978")),
    ],
)
def test_the_forms_in_which_papers_are_named(text: str, paper: Paper | None) -> None:
    (result,) = papers_in(text)
    assert paper is None or result == paper
    assert result.authors or result.arxiv


def test_what_is_no_paper() -> None:
    assert papers_in("In 2023 rows of 1024 tokens, since March 2024; GPT-4 of 2023.") == []


def test_the_chosen_method_is_cited_and_no_other() -> None:
    def labels(name: str, options: dict[str, object]) -> list[str]:
        return [paper.arxiv for paper in cited(find(name), options)]

    backtranslate = "generate.backtranslate"
    assert labels(backtranslate, {"method": {"name": "longform"}}) == ["2304.08460"]
    inner = {"name": "humback", "curation": {"name": "text"}}
    assert labels(backtranslate, {"method": inner}) == ["2308.06259"]
    assert labels("decontaminate.ngram", {"method": {"name": "tulu3-8-50"}}) == ["2411.15124"]
    # A class that names authors and year alone: the number stands in its module's docstring.
    assert labels("generate.from_documents", {"method": {"name": "bonito"}}) == ["2402.18334"]


def test_keys_are_unique_and_ascii() -> None:
    papers = [paper for _, text in docstrings() for paper in papers_in(text)]
    keys = re.findall(r"@misc\{(.*),", bibtex(papers))
    assert len(keys) == len(set(keys))
    assert all(re.fullmatch(r"[a-z0-9.-]+", key) for key in keys)
