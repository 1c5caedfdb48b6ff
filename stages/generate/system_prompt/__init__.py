"""System prompts for existing instructions, and answers that obey them.

- `rules`: RNR's roles with rules that bear on the instruction (see `rules.py`).
- `profiles`: role profiles as in RoleMRC (see `profiles.py`).
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Annotated, Final

import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models.base import Decoding, LanguageModel
from pipeline.stage import InputFiles, Records, stage
from pipeline.types import Count, Fraction, NonNegativeFloat
from schemas.records import Message, first_user_turn
from stages._common.listed_files import lines_of
from stages._llm.drafts import (
    Draft,
    Prompt,
    RowMessages,
    filter_drafts,
    generate_field,
    to_frame,
    user,
    yes_or_no,
)
from stages._llm.prompts import Prompts
from stages._llm.rows import license_of
from stages.generate.system_prompt.profiles import Profiles, assign_profiles, write_profiles
from stages.generate.system_prompt.rules import Rules, write_rules
from stages.generate.taxonomy.axes import TOPICS

PROMPTS: Final = Prompts(__file__)

ADDS: Final = {"journal": pl.List(pl.String), "rules": pl.List(pl.String)}

JUDGE_MAX_TOKENS: Final = 4

Method = Annotated[Rules | Profiles, Field(discriminator="name")]


def _check(options: SimpleNamespace) -> None:
    if not options.verify and options.judge_max_tokens != JUDGE_MAX_TOKENS:
        raise OptionError(
            *("judge_max_tokens", f"must be left out, got {options.judge_max_tokens}"),
            why="without verify nothing is judged",
            hint="verify: true",
        )
    if not options.topic_files:
        return
    if not isinstance(options.method, Profiles):
        raise OptionError("topic_files", "must be left out with method: rules")
    if options.method.topics != TOPICS:
        what = "must be left out with topic_files, which replaces it"
        raise OptionError("method.topics", what)


@stage(
    version=3,
    scope="set",
    reads=["messages", "origins"],
    adds=ADDS,
    check=_check,
    later=("judge_max_tokens", "keep_reasoning", "topic_files"),
)
def system_prompt(
    ctx: Context,
    rows: Records,
    *,
    model: LanguageModel,
    method: Method = Rules(),
    topic_files: InputFiles = (),
    seed: int = 0,
    verify: bool = False,
    temperature: NonNegativeFloat = 0.7,
    top_p: Fraction = 1.0,
    max_tokens: Count = 1024,
    judge_max_tokens: Count = JUDGE_MAX_TOKENS,
    keep_reasoning: bool = False,
    source: str = "system_prompt",
) -> Records:
    """New records of system prompt, instruction and an answer that obeys: one for each row.

    The instruction is the row's first user turn with its input; `parents` is the row, whose
    license stays. Adds `journal` and `rules`: the rules of the system prompt (of a profile:
    how it speaks and what it refuses).

    Args:
        rows: The instructions.
        model: Writes system prompts and answers.
        method: rules or profiles, each with its own options.
        topic_files: Text files with a topic on each line, for `profiles`, in the place of its own.
        seed: Seed of the sampling, of the number of rules and of the choice of profiles.
        verify: Ask the model whether the answer obeys, and drop it as `rules_broken` if
            not. The paper does not; weak models need it.
        temperature: Of system prompts and answers.
        top_p: Nucleus of the sampling.
        max_tokens: Limit of a system prompt or an answer in tokens.
        judge_max_tokens: Limit of the answer of `verify` in tokens.
        keep_reasoning: Whether what the model reasoned before its answer becomes the answer's
            `reasoning`.
        source: Name of the new records' source.

    Returns:
        The new records. Rows are dropped as `no_instruction` (there is no user's turn),
        `no_rules` (the system prompt has no list), `rules_broken`, and for answers that were
        cut or unreadable as `system_cut`, `system_unparsed`, `profile_cut`,
        `profile_unparsed`, `response_cut`, `response_unparsed`, and of
        `verify` as `unreadable`.

    Example:
        ```yaml
        in_character:
          uses: generate.system_prompt
          needs: {rows: pool}
          with: {model: writer, method: {name: profiles, num_profiles: 50}, verify: true}
        ```
    """
    decoding = Decoding(max_tokens, temperature, top_p)
    write = partial(generate_field, ctx.open(model), decoding=decoding, seed=seed)
    drafts = _drafts(rows)
    if isinstance(method, Rules):
        write_rules(write, drafts, method, seed)
    else:
        assign_profiles(drafts, write_profiles(write, method, lines_of(topic_files)), seed)
    write(drafts, "response", lambda d: user(d["instruction"], system=d["system"]))
    if verify:
        write(drafts, "obeyed", _verification, decoding=yes_or_no(judge_max_tokens))
        filter_drafts(drafts, lambda d: None if d["obeyed"] == "yes" else ("rules_broken", {}))
    reasoning = "response" if keep_reasoning else None
    return to_frame(drafts, _messages, source, ADDS, keep_reasoning=reasoning)


def _drafts(rows: pl.DataFrame) -> list[Draft]:
    """A draft for each row with its instruction."""
    columns = rows.select("id", first_user_turn().alias("text"), "origins").iter_rows()
    drafts = []
    for id_, text, origins in columns:
        draft = Draft((id_,), {"instruction": text or ""}, license_of(origins))
        if not (text or "").strip():
            draft.reject("no_instruction")
        drafts.append(draft)
    return drafts


def _verification(draft: Draft) -> Prompt:
    """The question whether an answer obeys its system prompt."""
    names = ("system", "instruction", "response")
    return user(PROMPTS.render("obeyed", **{n: draft[n] for n in names}))


def _messages(draft: Draft) -> RowMessages:
    roles = {"system": "system", "instruction": "user", "response": "assistant"}
    messages: list[Message] = [
        {"role": role, "content": draft.fields[name]}
        for name, role in roles.items()
        if draft.fields.get(name)
    ]
    return messages, None
