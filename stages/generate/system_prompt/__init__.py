"""System prompts that instructions can be answered under: roles, rules, characters.

- `rules`: RNR, Teaching Large Language Models to Follow Roles and Rules (Wang et al.
  2024, arXiv:2409.13733). From an ordinary instruction the model invents a developer's
  prompt, a role with rules that bear on it, and then the answer that obeys.
- `profiles`: role profiles as in RoleMRC (Lu et al. 2025, arXiv:2502.11387). A
  character with what it knows, how it speaks and what it does not talk about, under
  which ordinary instructions are answered, or declined where they lie outside.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, Final, Literal

import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models.base import Decoding, LanguageModel
from pipeline.stage import Records, stage
from schemas.records import Message, first_user_turn
from stages._common.unused_options import refuse_idle
from stages._llm.drafts import (
    YES_OR_NO,
    Draft,
    GenerateField,
    RowMessages,
    filter_drafts,
    generate_field,
    to_frame,
    user,
)
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection
from stages.generate._parsing.lists import listed_items
from stages.generate.taxonomy.axes import TOPICS

PROMPTS: Final = Prompts(__file__)

ADDS: Final = {"journal": pl.List(pl.String), "rules": pl.List(pl.String)}
_PARTS: Final = ("name", "knows", "speaks", "refuses")


def _check(options: SimpleNamespace) -> None:
    low, high = options.rules
    if not 1 <= low <= high:
        raise UserError(f"rules is [{low}, {high}]", hint="rules: [FEWEST, MOST], 1 or more")
    if options.method == "profiles" and (options.profiles < 1 or not options.topics):
        raise UserError("there is no character to be invented", hint="profiles: 20, with topics")
    method = options.method
    refuse_idle(
        *(system_prompt, options),
        (method == "rules", "method: rules", "rules"),
        (method == "profiles", "method: profiles", "profiles topics"),
    )


@stage(version=1, scope="set", reads=["messages", "origins"], adds=ADDS, check=_check)
def system_prompt(
    ctx: Context,
    rows: Records,
    *,
    model: LanguageModel,
    method: Literal["rules", "profiles"] = "rules",
    seed: int = 0,
    rules: tuple[int, int] = (1, 5),
    profiles: int = 20,
    topics: tuple[str, ...] = TOPICS,
    verify: bool = False,
    temperature: float = 0.7,
    top_p: float = 1.0,
    max_tokens: int = 1024,
    source: str = "system_prompt",
) -> Records:
    """New records of system prompt, instruction and an answer that obeys: one for each row.

    The instruction is the row's first user turn with its input; `parents` is the row,
    whose licence stays. Adds `journal` and `rules`: the rules that were laid down (of a
    character: what it speaks like and what it does not talk about).

    rules: the fewest and the most rules of a prompt, drawn for each row.
    profiles: so many characters are invented, each around one of the topics, and dealt
        out to the rows.
    verify: ask whether the answer obeys, and drop it as `rules_broken` if not. The
        paper does not; weak models need it.

    Dropped: `no_rules` (a prompt without the list), `no_instruction` (a row without a
    user's turn), `rules_broken`, and answers that were cut or unreadable.
    """
    ask = partial(
        generate_field,
        ctx.open(model),
        decoding=Decoding(max_tokens, temperature, top_p),
        seed=seed,
    )
    drafts = _drafts(rows)
    if method == "rules":
        _lay_down(ask, drafts, rules, seed)
    else:
        _deal_out(drafts, _invent(ask, profiles, topics), seed)
    ask(drafts, "response", lambda d: user(d["instruction"], system=d["system"]))
    if verify:
        ask(drafts, "obeyed", _asked_whether_obeyed, decoding=YES_OR_NO)
        filter_drafts(drafts, lambda d: None if d["obeyed"] == "yes" else ("rules_broken", {}))
    return to_frame(drafts, _talk, source, ADDS)


def _drafts(given: pl.DataFrame) -> list[Draft]:
    columns = given.select("id", first_user_turn().alias("text"), "origins").iter_rows()
    drafts = []
    for id_, text, origins in columns:
        license = next((origin["license"] for origin in origins or ()), None)
        draft = Draft((id_,), {"instruction": text or ""}, license)
        if not (text or "").strip():
            draft.reject("no_instruction")
        drafts.append(draft)
    return drafts


def _lay_down(
    ask: GenerateField, drafts: Sequence[Draft], most: tuple[int, int], seed: int
) -> None:
    """Have a role with rules written for every instruction."""
    for draft in drafts:
        draft.fields["count"] = random.Random(f"{seed} rules {draft.parents}").randint(*most)
    ask(drafts, "system", lambda d: user(PROMPTS.render("rules", **d.fields)))

    def ruled(draft: Draft) -> Rejection | None:
        draft.fields["rules"] = listed_items(draft["system"])
        return None if draft["rules"] else ("no_rules", {"system_end": draft["system"][-200:]})

    filter_drafts(drafts, ruled)


def _invent(ask: GenerateField, profiles: int, topics: Sequence[str]) -> list[Draft]:
    """Characters: drafts of their own, which become no rows but lead to them."""
    found = [
        Draft((), {"topic": topics[number % len(topics)]}, number=number // len(topics))
        for number in range(profiles)
    ]
    ask(
        *(found, "profile", lambda d: user(PROMPTS.render("profile", **d.fields))),
        read=profile,
    )
    return found


def profile(text: str) -> dict[str, str] | None:
    """The four parts of a character; None where one of them is missing."""
    found: dict[str, str] = {}
    for part in _PARTS:
        line = re.search(rf"^[^\w\n]*{part}\W*:\s*(\S.*)$", text, re.IGNORECASE | re.MULTILINE)
        if line is None:
            return None
        found[part] = line[1].strip(" .*")
    return found


def _deal_out(drafts: Sequence[Draft], characters: Sequence[Draft], seed: int) -> None:
    """Give each row a character, drawn by its id; without any the rows say why."""
    usable = [character for character in characters if character.active]
    for draft in drafts:
        if not draft.active:
            continue
        if not usable:
            first = characters[0]
            draft.error, draft.rejection = first.error, first.rejection
            draft.journal += first.journal
            continue
        character = random.Random(f"{seed} profile {draft.parents}").choice(usable)
        parts = character["profile"]
        draft.journal += character.journal
        draft.notes["character"] = parts["name"]
        draft.fields |= {
            "system": PROMPTS.render("played", **parts),
            "rules": [parts["speaks"], parts["refuses"]],
        }


def _asked_whether_obeyed(draft: Draft) -> Any:
    names = ("system", "instruction", "response")
    return user(PROMPTS.render("obeyed", **{n: draft[n] for n in names}))


def _talk(draft: Draft) -> RowMessages:
    roles = {"system": "system", "instruction": "user", "response": "assistant"}
    messages: list[Message] = [
        {"role": role, "content": draft.fields[name]}
        for name, role in roles.items()
        if draft.fields.get(name)
    ]
    return messages, None
