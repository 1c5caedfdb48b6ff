"""Models challenge each other, both answer, and those who are not involved vote.

WarriorCoder (Feng et al. 2024, arXiv:2412.17395). An attacker poses what it knows
well: left in an open user's turn, a chat model writes the instructions that it was
trained on. Attacker and defender both answer. The other models judge the pair, in
both orders, since a judge favours a place. An answer's score is its share of the
votes in this battle, tempered by its author's strength over all battles (Elo), so
that a lucky vote counts less. Every answer becomes a row with its votes;
`select.response` takes the winners, and duplicates, difficulty and diversity are
stages of their own (the paper: judged difficulty, then k-center).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import permutations
from types import SimpleNamespace
from typing import Final, Literal

import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models.base import Decoding, Engine, LanguageModel
from pipeline.stage import Records, stage
from stages._common.unused_options import refuse_idle
from stages._llm.drafts import (
    Draft,
    Prompt,
    RowMessages,
    generate_field,
    model_names,
    to_frame,
    user,
)
from stages._llm.prompts import Prompts
from stages._llm.rows import task_messages
from stages.generate.self_instruct.instances import user_turn

PROMPTS: Final = Prompts(__file__)

ADDS: Final = {
    "journal": pl.List(pl.String),
    "attacker": pl.String,
    "author": pl.String,
    "opponent": pl.String,
    "votes": pl.Float64,
    "voters": pl.Int32,
    "elo": pl.Float64,
    "arena_score": pl.Float64,
}
_VERDICT: Final = Decoding(max_tokens=8, choice=("A", "B", "tie"))
_SHARE: Final = {"A": 1.0, "B": 0.0, "tie": 0.5}
_START: Final = 1000.0
_STEP: Final = 32.0
_SCALE: Final = 400.0
"""Elo's usual numbers: the rating of a beginner, the most that one battle moves it, and
the lead at which ten of eleven points are expected."""


@dataclass
class Battle:
    """One challenge with the answers of two models, by place among the models.

    shares: for each vote, the attacker's part of it. journal: keys of all votes. error:
    why a vote could not be asked for; the battle is then not decided.
    """

    attacker: int
    defender: int
    challenge: Draft
    answers: dict[int, Draft] = field(default_factory=dict)
    shares: list[float] = field(default_factory=list)
    journal: list[str] = field(default_factory=list)
    error: str | None = None

    @property
    def share(self) -> float | None:
        """The attacker's part of the votes; None where nobody voted."""
        return sum(self.shares) / len(self.shares) if self.shares else None


def _check(options: SimpleNamespace) -> None:
    models = options.models or ()
    if len(models) < 2 or (len(models) < 3 and not options.judges):
        raise UserError(
            f"{len(models)} models are no arena",
            why="two fight, and a third has to judge",
            hint="models: [ONE, TWO, THREE], or two of them and judges: [ANOTHER]",
        )
    if not 0 <= options.elo_weight <= 1:
        raise UserError(f"elo_weight is {options.elo_weight}", hint="a number from 0 to 1")
    refuse_idle(
        *(arena, options),
        (options.challenges == "asked", "challenges: asked", "domain"),
    )


@stage(version=1, scope="set", adds=ADDS, check=_check)
def arena(
    ctx: Context,
    *,
    models: tuple[LanguageModel, ...],
    count: int,
    judges: tuple[LanguageModel, ...] = (),
    challenges: Literal["opened_turn", "asked"] = "opened_turn",
    domain: str = "programming",
    elo_weight: float = 0.5,
    seed: int = 0,
    challenge_temperature: float = 1.0,
    challenge_top_p: float = 0.99,
    challenge_tokens: int = 512,
    temperature: float = 0.0,
    max_tokens: int = 1024,
    source: str = "arena",
    license: str = "unspecified",
) -> Records:
    """New records: two for each battle, the attacker's answer and the defender's.

    Adds `journal`; `attacker`, `author` and `opponent` (models by their names here);
    `votes` (the author's share of `voters` votes, null without any), `elo` (the author's
    rating after all battles) and `arena_score` = (1 - elo_weight) * votes + elo_weight *
    the part that Elo expects of the author.

    count: challenges of each model; the defenders take turns.
    judges: who votes; by default the models that are not in the battle.
    challenges: "opened_turn", the paper's, needs the model's chat template here; "asked"
        has a task in the domain asked for, for models behind a server.
    elo_weight: the paper weighs both without saying how; one half is ours.

    Dropped: challenges and answers that were cut or empty, `no_votes`
    (the opponent has no answer). A vote that cannot be had or read leaves its battle
    undecided: both rows have failed.
    """
    battles = _challenge(
        ctx,
        models,
        count,
        seed,
        challenges,
        domain,
        Decoding(challenge_tokens, challenge_temperature, challenge_top_p),
    )
    _answer(ctx, models, battles, Decoding(max_tokens, temperature), seed)
    _vote(ctx, models, judges, battles, seed)
    ratings = elo(
        [(b.attacker, b.defender, b.share) for b in battles if b.share is not None], len(models)
    )
    drafts = [
        _row(battle, author, models, ratings, elo_weight)
        for battle in battles
        for author in (battle.attacker, battle.defender)
    ]
    return to_frame(drafts, _talk, source, ADDS, license)


def _challenge(
    ctx: Context,
    models: Sequence[LanguageModel],
    count: int,
    seed: int,
    how: str,
    domain: str,
    decoding: Decoding,
) -> list[Battle]:
    """The challenges of every model, each with a defender; the others take turns at that."""
    battles = []
    for attacker, model in enumerate(models):
        engine = ctx.open(model)
        opening, stops = _opening(engine, how, domain)
        found = [Draft((), {}, number=number) for number in range(count)]
        generate_field(
            *(engine, found, "challenge", lambda _, opening=opening: opening),
            Decoding(decoding.max_tokens, decoding.temperature, decoding.top_p, stop=stops),
            seed=seed,
        )
        others = [place for place in range(len(models)) if place != attacker]
        for number, draft in enumerate(found):
            battles.append(Battle(attacker, others[number % len(others)], draft))
    return battles


def _opening(engine: Engine, how: str, domain: str) -> tuple[Prompt, tuple[str, ...]]:
    if how == "asked":
        return user(PROMPTS.render("challenge", domain=domain)), ()
    before, after = user_turn(engine)
    return before, (after,) if after else ()


def _answer(
    ctx: Context,
    models: Sequence[LanguageModel],
    battles: Sequence[Battle],
    decoding: Decoding,
    seed: int,
) -> None:
    """Each model answers all challenges that it is in, at once."""
    for place, model in enumerate(models):
        mine = [b for b in battles if place in (b.attacker, b.defender)]
        for battle in mine:
            asked = battle.challenge
            battle.answers[place] = asked.child()
            battle.answers[place].rejection = asked.rejection
            battle.answers[place].error = asked.error
        answers = [battle.answers[place] for battle in mine]
        generate_field(
            *(ctx.open(model), answers, "response", lambda d: user(d["challenge"]), decoding),
            seed=seed,
        )


def _vote(
    ctx: Context,
    models: Sequence[LanguageModel],
    judges: Sequence[LanguageModel],
    battles: Sequence[Battle],
    seed: int,
) -> None:
    """All judges vote on all battles that they are not in, in both orders."""
    fought = [b for b in battles if all(answer.active for answer in b.answers.values())]
    for place, judge in enumerate(judges or models):
        mine = [b for b in fought if judges or place not in (b.attacker, b.defender)]
        ballots = [
            Draft((), {"battle": battle, "order": order})
            for battle in mine
            for order in permutations((battle.attacker, battle.defender))
        ]
        generate_field(ctx.open(judge), ballots, "verdict", _ballot, _VERDICT, seed=seed)
        for ballot in ballots:
            battle: Battle = ballot["battle"]
            battle.journal += ballot.journal
            battle.error = battle.error or ballot.error
            if ballot.active:
                share = _SHARE[ballot["verdict"]]
                first = ballot["order"][0] == battle.attacker
                battle.shares.append(share if first else 1 - share)


def _ballot(draft: Draft) -> Prompt:
    battle, order = draft["battle"], draft["order"]
    first, second = (battle.answers[place]["response"] for place in order)
    challenge = battle.challenge["challenge"]
    return user(PROMPTS.render("verdict", challenge=challenge, first=first, second=second))


def elo(battles: Sequence[tuple[int, int, float]], players: int) -> list[float]:
    """Ratings after battles of (one, other, the one's share), in their order.

    The rating moves by K (s - e), where e = 1 / (1 + 10^((other - one) / 400)) is the
    share that was expected (Elo 1978).
    """
    ratings = [_START] * players
    for one, other, share in battles:
        change = _STEP * (share - expected(ratings[one], ratings[other]))
        ratings[one] += change
        ratings[other] -= change
    return ratings


def expected(one: float, other: float) -> float:
    """The share of the votes that a rating lets expect against another."""
    return float(1 / (1 + 10 ** ((other - one) / _SCALE)))


def _row(
    battle: Battle,
    author: int,
    models: Sequence[LanguageModel],
    ratings: Sequence[float],
    weight: float,
) -> Draft:
    """One answer with what the vote and the ratings say of it."""
    opponent = battle.defender if author == battle.attacker else battle.attacker
    draft = battle.answers[author]
    draft.journal += battle.journal
    share = battle.share if author == battle.attacker or battle.share is None else 1 - battle.share
    names = model_names(models)
    draft.fields |= {
        "attacker": names[battle.attacker],
        "author": names[author],
        "opponent": names[opponent],
        "votes": share,
        "voters": len(battle.shares),
        "elo": ratings[author],
    }
    if draft.active and battle.error is not None:
        draft.error = battle.error
    elif share is not None:
        strength = expected(ratings[author], ratings[opponent])
        draft.fields["arena_score"] = (1 - weight) * share + weight * strength
    elif draft.active:
        draft.reject("no_votes", opponent_answered=battle.answers[opponent].active)
    return draft


def _talk(draft: Draft) -> RowMessages:
    return task_messages(draft.fields.get("challenge", ""), "", draft.fields.get("response", ""))
