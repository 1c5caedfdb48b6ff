"""Decontamination by shared words: rows that hold (parts of) evaluation items.

The rules of the literature are methods, each with options of its own:
`stages.decontaminate._rules`. Paraphrases pass any of them (0 of 1,319 rephrased GSM8K
problems hold a 13-gram of their original): `decontaminate.semantic` is for these.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.stage import Items, Pairs, Records, stage
from schemas.turns import View
from stages._common.pairs import are_pairs, as_conversations, place_in_pair
from stages._common.verdicts import dropped
from stages._text.ngram_index import Index, Overlaps
from stages.decontaminate._benchmarks import Benchmarks, turns_of
from stages.decontaminate._rules import GPT3, Method, Rule, label, search
from stages.decontaminate._substrings import Needles


@stage(version=3, scope="row", reads={"rows": ["messages", "tools"]})
def ngram(
    ctx: Context,
    rows: Records | Pairs,
    benchmarks: Items,
    *,
    method: Method = GPT3(),
    fields: tuple[str, ...] | None = None,
    view: View = "all",
) -> pl.DataFrame:
    """Drop as `contaminated` every row of which one turn overlaps with an evaluation item.

    The unit is a word (lower case, no punctuation, numbers stay, a character of Chinese is a
    word; invisible characters such as zero-width spaces do not count), and each turn is
    compared separately. N-grams of fewer than three distinct words, or of numbers and single
    letters alone, are ignored: a run of zeros is no leak. Numbers stay as they are: problems
    that differ in them are different. A text of which all n-grams are ignored (arithmetic)
    is searched for whole, as one n-gram, unless it only counts in equal steps. A text of
    fewer words than the method's n-grams is searched for as one n-gram, if it has at least
    `min_words`; with fewer than 8 words it must also be at least half of the turn
    (deepseek-10: anywhere): inside long turns such phrases occur by chance. Shorter texts
    ("yes", "42", "all of the above") would prove nothing and are left out.

    Args:
        rows: The rows to check; of pairs the prompt and both sides.
        benchmarks: The evaluation items.
        method: A rule of the literature. The overlap must exceed its `coverage` (gpt3-13,
            tulu3-8-50, deepseek-10) or reach it (palm-8-70, llama3, qwen-13-lcs); `coverage`
            is one number for all benchmarks or {benchmark: number}. Words in ignored n-grams
            alone are not counted: a complete copy has an overlap of 1.
        fields: Names of the items' texts that count; null: all.
        view: What of a turn is compared: its content, the tool calls too, or all: the
            reasoning, and where the method compares all turns the definitions of the tools.

    Returns:
        The verdicts. Evidence, for the largest overlap: rule, benchmark, item and its id,
        field, overlap, ngram (the first one shared; the first words of a contained text)
        and turn (its position in messages; their number for the definitions of the tools); of
        pairs part (prompt, chosen, rejected or tools) and turn (its position there).

    Raises:
        UserError: There are no items, or no text of a benchmark can be compared: nothing
            would ever be found, which is not the same as clean.

    Example:
        ```yaml
        clean:
          uses: decontaminate.ngram
          needs: {rows: pool, benchmarks: exams}
          with: {method: {name: tulu3-8-50, coverage: 0.4}}
        ```

        >>> import tempfile
        >>> from pathlib import Path
        >>> question = "How many apples does Tom have if he buys five apples and eats two of them?"
        >>> messages = [[{"role": "user", "content": text}] for text in ("Hm: " + question, "Sing")]
        >>> rows = pl.DataFrame({"id": ["a", "b"], "messages": messages})
        >>> items = pl.DataFrame({"id": ["i"], "benchmark": ["gsm8k"], "item": ["0"],
        ...                       "texts": [[{"name": "question", "text": question}]]})
        >>> verdicts = ngram(Context.scratch(Path(tempfile.mkdtemp())), rows, items)
        >>> verdicts["drop_reason"].to_list()
        ['contaminated', None]
    """
    turns = turns_of(as_conversations(rows), method.turns, view)
    index, parts = search(method, Benchmarks(benchmarks), fields, turns["text"])
    evidence: dict[int, dict[str, Any]] = {}
    for pairs, enough in parts:
        for position, cause in _causes(method, index, pairs, np.flatnonzero(enough), turns):
            # The turns of a row may lie in two parts; of equal overlaps the first stays.
            if position not in evidence or cause["overlap"] > evidence[position]["overlap"]:
                evidence[position] = cause
    for position, cause in evidence.items() if are_pairs(rows) else ():
        cause.update(place_in_pair(rows.row(position, named=True), cause["turn"]))
    return dropped(len(rows), "contaminated", evidence)


def _causes(
    rule: Rule,
    index: Index | Needles,
    pairs: Overlaps,
    enough: NDArray[np.int64],
    turns: pl.DataFrame,
) -> list[tuple[int, dict[str, Any]]]:
    """The largest overlap of each row that is enough; of equals the first."""
    row = turns["row"].to_numpy()[pairs.row]
    order = enough[np.lexsort((pairs.text[enough], -pairs.overlap[enough], row[enough]))]
    rows, first = np.unique(row[order], return_index=True)
    causes = []
    # A loop over dropped rows only.
    for position, i in zip(rows.tolist(), order[first].tolist(), strict=True):
        text = index.texts.row(int(pairs.text[i]), named=True)
        cause = {
            "rule": label(rule),
            "benchmark": text["benchmark"],
            "item": text["item"],
            "id": text["id"],
            "field": text["field"],
            "overlap": float(pairs.overlap[i]),
            "ngram": index.excerpt(int(pairs.text[i]), int(pairs.start[i]), int(pairs.length[i])),
            "turn": turns["turn"][int(pairs.row[i])],
        }
        causes.append((position, cause))
    return causes
