"""Which constraints answers follow: IFEval and its successors, without a judge.

- IFEval (Zhou et al. 2023, "Instruction-Following Evaluation for Large Language Models",
  arXiv:2311.07911): strict and loose accuracy, of prompts and of constraints. As in the authors'
  code: 25 kinds, and loose as one of eight variants of the answer. Of its 1,664
  published labels 1,661 agree strictly (99.82%) and 1,659 loosely (99.70%). The others, each named
  in the test: three count "#" or "!" as a letter, for which the code drew another one; two say
  of an answer in broken Hindi and one in broken Swahili, which langdetect (py3langid here)
  takes for another language, that it is none.
- IFBench (Pyatkin et al. 2025, "Generalizing Verifiable Instruction Following", arXiv:2507.02833),
  which reports `prompt`, loose: 56 of its 58 kinds; 410 of the 416 labels that are published for
  these agree, the others depend on how Punkt is trained. The two others are failed rows.
- Several turns: as in Multi-IF (He et al. 2024, arXiv:2410.15553) each turn has constraints of its
  own, which its answer must follow; with `cumulative` also all later answers, as in MMMT-IF.
- MMMT-IF (Epstein et al. 2024, "MMMT-IF: A Challenging Multimodal Multi-Turn Instruction Following
  Benchmark", arXiv:2409.18216): PIF, the share of a row's constraints that is followed, and
  PIF-N-K, the share of prompts of which at least K of N answers follow all.

Kinds and arguments stand in `extra`, as the files of benchmarks have them; `stages/_constraints`
has the checkers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl

from pipeline.context import Context
from pipeline.stage import Records, stage
from schemas.records import prompt_id
from stages._constraints.constraint import ConstraintError
from stages._constraints.stored import ARGUMENTS_FIELD, KINDS_FIELD, read_turns
from stages.evaluate.constraints.scores import Followed, as_markdown, followed, prompt_rates, scores

_COLUMNS: Final = ["messages", "tools", "extra"]
_ADDS: Final = {
    "constraints_followed": pl.Boolean(),
    "constraints_followed_loosely": pl.Boolean(),
    "constraints_rate": pl.Float64(),
    "constraints_prompt_rate": pl.Float64(),
    "constraints_strict": pl.List(pl.Boolean()),
    "constraints_loose": pl.List(pl.Boolean()),
}


@stage(
    version=2,
    scope="set",
    reads={"rows": _COLUMNS, "prompts": _COLUMNS},
    adds=_ADDS,
    files=True,
)
def constraints(
    ctx: Context,
    rows: Records,
    prompts: Records | None = None,
    *,
    kinds: str = KINDS_FIELD,
    arguments: str = ARGUMENTS_FIELD,
    cumulative: bool = False,
) -> pl.DataFrame:
    """Check every answer against the constraints of its prompt, and count what is followed.

    Nothing is dropped: `select.top` decides by a column. `constraints.json` and `constraints.md`
    have the scores: `prompt` (rows that follow all), `instruction` (of all constraints), `group`
    and `kind`, each strict and loose; `pif`; and `repeats`, over the answers of each prompt.

    Args:
        rows: Conversations with answers. One without an answer has an empty one, and an empty
            answer follows nothing.
        prompts: Where the constraints stand, if not in the rows themselves (answers of
            `generate.respond` do not have them): records with the same turns before the answer.
        kinds: The field of `extra` with the kinds: a list for the last answer, or one such list
            for each user turn.
        arguments: The field of `extra` with the arguments of each kind.
        cumulative: Whether what a turn asks for holds for all later answers too.

    Returns:
        `constraints_strict` and `constraints_loose`: whether each constraint is followed, in the
        order of the turns and of the lists; `constraints_followed` and
        `constraints_followed_loosely`: whether all are; `constraints_rate`: the share that is
        followed strictly; `constraints_prompt_rate`: the share of all answers to the row's prompt
        that follow all strictly, by which Light-IF parts prompts: hard at 0, easy at 1, pass
        between. All are null for a row without constraints. A row with a kind that is
        not known, or with arguments that are none of its kind, is failed.

    Example:
        ```yaml
        followed:
          uses: evaluate.constraints
          needs: {rows: answers, prompts: ifeval}
        ```

        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> asked = '{"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}'
        >>> answers = ["Rain and snow.", "Well, rain."]
        >>> messages = [[{"role": "assistant", "content": answer}] for answer in answers]
        >>> rows = pl.DataFrame({"id": ["a", "b"], "messages": messages, "tools": None})
        >>> ctx = Context.scratch(Path(mkdtemp()))
        >>> constraints(ctx, rows.with_columns(extra=pl.lit(asked)))["constraints_rate"].to_list()
        [1.0, 0.0]
    """
    asked = _asked(prompts, kinds, arguments)
    results: list[Followed | str | None] = []
    for messages, tools, extra in rows.select(_COLUMNS).iter_rows():
        prompt = prompt_id(messages or [], tools)
        carried = asked.get(prompt) if asked is not None else extra
        results.append(_checked(prompt, messages or [], carried, kinds, arguments, cumulative))
        ctx.progress(len(results), len(rows))
    checked = [one for one in results if isinstance(one, Followed)]
    result = scores(checked)
    (ctx.files / "constraints.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    (ctx.files / "constraints.md").write_text(as_markdown(result), "utf-8")
    rates = prompt_rates(checked)
    table = [_row(one, rates) for one in results]
    return pl.DataFrame(table, schema=_ADDS | {"error": pl.String()})


def _asked(prompts: pl.DataFrame | None, kinds: str, arguments: str) -> dict[str, str] | None:
    """The `extra` of each prompt by its id; of equal prompts that of the first row that has any."""
    if prompts is None:
        return None
    asked: dict[str, str] = {}
    for messages, tools, extra in prompts.select(_COLUMNS).iter_rows():
        if extra and json.loads(extra).get(kinds):
            asked.setdefault(prompt_id(messages or [], tools), extra)
    return asked


def _checked(
    prompt: str,
    messages: Sequence[Mapping[str, Any]],
    extra: str | None,
    kinds: str,
    arguments: str,
    cumulative: bool,
) -> Followed | str | None:
    """What a row follows; why that cannot be said; None where nothing is asked of it."""
    try:
        turns, by_turn = read_turns(extra, kinds, arguments)
    except ConstraintError as error:
        return str(error)
    if not any(turns):
        return None
    answers = _answers(messages)
    if not by_turn:
        return followed(prompt, [(answers[-1] if answers else "", turns[0])])
    if len(turns) > len(answers):
        return f"{kinds} must have a list for each user turn, got {len(turns)} of {len(answers)}"
    if cumulative:
        turns = [[one for turn in turns[: n + 1] for one in turn] for n in range(len(answers))]
    return followed(prompt, zip(answers, turns, strict=False))


def _answers(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """The last answer to each user turn, empty where there is none."""
    answers: list[str] = []
    for message in messages:
        if message["role"] == "user":
            answers.append("")
        elif message["role"] == "assistant":
            answers[-1:] = [message["content"] or ""]
    return answers


def _row(one: Followed | str | None, rates: Mapping[str, float]) -> dict[str, Any]:
    if not isinstance(one, Followed):
        return dict.fromkeys(_ADDS) | {"error": one}
    return {
        "constraints_followed": all(one.strict),
        "constraints_followed_loosely": all(one.loose),
        "constraints_rate": one.rate,
        "constraints_prompt_rate": rates[one.prompt],
        "constraints_strict": [*one.strict],
        "constraints_loose": [*one.loose],
        "error": None,
    }
