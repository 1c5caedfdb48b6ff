"""Decontamination by shared words: rows that hold (parts of) evaluation items.

The rules of the literature are presets. Papers count tokens of their own tokenisers in
whole documents. Here the unit is a word (`stages._text.tokens.words`: lower case, no
punctuation, numbers stay, a character of Chinese is a word) and each turn of a
conversation is looked at by itself. What else differs:

- gpt3-13: any shared 13-gram. Brown et al. 2020, arXiv:2005.14165, appendix C;
  lm-evaluation-harness. The paper cuts 200 characters around the match out of a
  document and ignores 13-grams found in more than 10 documents; here the row goes,
  and no n-gram is ignored for being frequent in the pool, since a row is judged alone.
- tulu3-8-50: more than 50% of the item's words lie in 8-grams shared with one user
  turn. Lambert et al. 2024, arXiv:2411.15124, section 3.2. The paper drops a whole data
  set when it touches over 2% of an evaluation's items: the certificate has that share.
- palm-8-70: at least 70% of the item's 8-grams. Chowdhery et al. 2022,
  arXiv:2204.02311, section 8. The paper marks items, by 8-grams seen anywhere in the
  training data; here one turn must hold them, which is what a row can be dropped for.
- llama3: a share T of the item's words lies in shared 8-grams. Grattafiori et al. 2024,
  arXiv:2407.21783, section 5.1.4, after Singh et al., arXiv:2411.03923. T is chosen per
  benchmark by its effect on scores and not published: give `coverage`, by benchmark if
  you like; without it 50%. Also on items and the whole corpus in the paper.
- deepseek-10: any shared 10-gram; items of 3 to 9 words as a whole, wherever they
  stand. Shao et al. 2024, arXiv:2402.03300, section 2.1. Short answers ("all of the
  above") then convict by chance: choose `fields`.
- qwen-13-lcs: a shared 13-gram, and a longest common subsequence of at least 60% of
  the words of the shorter of turn and item. Yang et al. 2024 (Qwen2),
  arXiv:2407.10671, section 5.2.6, which asks for a subsequence of 13 words where this
  asks for 13 in a row, as the report's strict check does.
- substring: the item's text is contained in the turn, whatever the case. BigCode's and
  Magicoder's filter (arXiv:2305.06161, arXiv:2312.02120): prompts, docstrings and
  solutions. Their code exempts four HumanEval solutions by name ("return x + y");
  here every text of fewer than `min_words` words is exempt.

GPT-4's three random substrings of 50 characters (arXiv:2303.08774) are not here: chance
decides what they find.

Paraphrases pass any of them: `decontaminate.semantic` is for these.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.stage import Items, Records, stage
from stages._common.verdicts import dropped
from stages._text.ngram_index import Index, Overlaps
from stages.decontaminate._rules import (
    Coverage,
    Exams,
    Name,
    Rule,
    Turns,
    found,
    rules_named,
    turns_of,
)
from stages.decontaminate._substrings import Needles


def _rule(options: SimpleNamespace) -> Rule:
    given = {name: getattr(options, name) for name in ("n", "coverage", "turns", "min_words")}
    return rules_named(options.rule, **given)


def _check(options: SimpleNamespace) -> None:
    _rule(options)


@stage(version=2, scope="row", reads={"rows": ["messages"]}, check=_check)
def ngram(
    ctx: Context,
    rows: Records,
    exams: Items,
    *,
    rule: Name = "gpt3-13",
    n: int | None = None,
    coverage: Coverage | None = None,
    turns: Turns | None = None,
    fields: tuple[str, ...] | None = None,
    min_words: int | None = None,
) -> pl.DataFrame:
    """Drop as `contaminated` every row of which one turn overlaps with an evaluation item.

    rule: a rule of the literature (above). Each of the options below that is given takes
        the place of the rule's own value.
    n: words per n-gram.
    coverage: the share of an item's text that one turn must have in common with it, for
        all benchmarks or as {benchmark: share}. It must be exceeded (gpt3-13, tulu3-8-50,
        deepseek-10) or reached (palm-8-70, llama3, qwen-13-lcs). A share of the text's
        words that shared n-grams cover; of its n-grams (palm-8-70); of the words of the
        shorter text, in a common subsequence (qwen-13-lcs). 0: any shared n-gram. Words
        in ignored n-grams alone are not counted: a whole copy has an overlap of 1.
    turns: which turns are looked at, each by itself.
    fields: the texts of the items that count, by name; by default all.
    min_words: an item's text of fewer than n words is looked for as a whole, if it has
        at least so many. With fewer than 8 words it must also be at least half of the
        turn (deepseek-10: anywhere): inside long turns such phrases occur by chance.
        Texts below min_words ("yes", "42", "all of the above") would prove nothing and
        are left out.

    N-grams of fewer than three distinct words, or of numbers and single letters alone,
    are ignored: a run of zeros is no leak. Numbers stay as they are: problems that
    differ in them are different.
    Evidence, for the largest overlap: rule, benchmark, item and its id, field, overlap,
    ngram (the first one shared; the first words of a contained text) and turn (its place
    in messages).
    Raises UserError for exams without items, and for a benchmark of which nothing
    could be compared: nothing would ever be found, which is not the same as clean.
    """
    asked = _rule(
        SimpleNamespace(rule=rule, n=n, coverage=coverage, turns=turns, min_words=min_words)
    )
    items = Exams(exams)
    spoken = turns_of(rows, asked.turns)
    index, parts = found(asked, items, fields, spoken["text"])
    evidence: dict[int, dict[str, Any]] = {}
    for pairs, enough in parts:
        for position, cause in _causes(asked, index, pairs, np.flatnonzero(enough), spoken):
            # The turns of a row may lie in two parts; of equal overlaps the first stays.
            if position not in evidence or cause["overlap"] > evidence[position]["overlap"]:
                evidence[position] = cause
    return dropped(len(rows), "contaminated", evidence)


def _causes(
    rule: Rule,
    index: Index | Needles,
    pairs: Overlaps,
    enough: NDArray[np.int64],
    spoken: pl.DataFrame,
) -> list[tuple[int, dict[str, Any]]]:
    """The largest overlap of each row that is enough; of equals the first."""
    row = spoken["row"].to_numpy()[pairs.row]
    order = enough[np.lexsort((pairs.text[enough], -pairs.overlap[enough], row[enough]))]
    rows, first = np.unique(row[order], return_index=True)
    causes = []
    # A loop over dropped rows only.
    for position, i in zip(rows.tolist(), order[first].tolist(), strict=True):
        text = index.texts.row(int(pairs.text[i]), named=True)
        cause = {
            "rule": rule.name,
            "benchmark": text["benchmark"],
            "item": text["item"],
            "id": text["id"],
            "field": text["field"],
            "overlap": float(pairs.overlap[i]),
            "ngram": index.run(int(pairs.text[i]), int(pairs.start[i]), int(pairs.length[i])),
            "turn": spoken["turn"][int(pairs.row[i])],
        }
        causes.append((position, cause))
    return causes
