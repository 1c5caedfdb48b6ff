"""Models challenge each other, both answer, and those who are not involved vote.

WarriorCoder: Learning from Expert Battles to Augment Code Large Language Models (Feng et al.
2024, arXiv:2412.17395). As in the paper: an attacker poses what it knows well: left in an open
user's turn, a chat model writes the instructions that it was trained on. Attacker and defender
both answer. The other models judge the pair, in both orders, since a judge favors a position. An
answer's score is its fraction of the votes in this battle, tempered by its author's strength
over all battles (Elo), so that a lucky vote counts less.

Ours: the wording of the votes, both weights (the paper states none), Elo's usual constants, the
sampling, and `asked`, for models of which only a server has the template. Every answer becomes a
row with its votes; `select.response` takes the winners, and duplicates, difficulty and diversity
are stages of their own (the paper: judged difficulty, then k-center).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import permutations
from types import SimpleNamespace
from typing import Annotated, Final, Literal

import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models.base import Decoding, Engine, LanguageModel
from pipeline.models.side_by_side import side_by_side
from pipeline.stage import Records, stage
from pipeline.types import Count, Fraction, NonNegativeFloat, option_group
from stages._llm.drafts import (
    Draft,
    Prompt,
    RowMessages,
    generate_field,
    model_names,
    to_frame,
    user,
)
from stages._llm.preambles import instruction_text
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection, task_messages
from stages.generate._user_turn import check_template, users_words

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
JUDGE_MAX_TOKENS: Final = 8
_VOTES: Final = {"A": 1.0, "B": 0.0, "tie": 0.5}
"""The first answer's part of a vote."""

_START_RATING: Final = 1000.0
_K_FACTOR: Final = 32.0
_SCALE: Final = 400.0
"""Elo's usual numbers: the rating of a beginner, the most that one battle changes it, and
the lead at which ten of eleven points are expected."""


@option_group
class OpenedTurn:
    """The model writes what comes in an open user's turn, as in the paper.

    The models' chat templates must be at hand: weights here, or a `tokenizer` for a server with a
    completions endpoint.

    Args:
        name: "opened_turn".
        temperature: Of the challenges.
        top_p: Nucleus of the sampling.
        max_tokens: Limit of a challenge in tokens.
    """

    name: Literal["opened_turn"] = "opened_turn"
    temperature: NonNegativeFloat = 1.0
    top_p: Fraction = 0.99
    max_tokens: Count = 512


@option_group
class Requested:
    """The model is asked for a task in a domain, for models whose template only a server has.

    Args:
        name: "asked".
        domain: What the task is about, in words of the prompt.
        temperature: Of the challenges.
        top_p: Nucleus of the sampling.
        max_tokens: Limit of a challenge in tokens.
    """

    name: Literal["asked"] = "asked"
    domain: str = "programming"
    temperature: NonNegativeFloat = 1.0
    top_p: Fraction = 0.99
    max_tokens: Count = 512


Challenges = Annotated[OpenedTurn | Requested, Field(discriminator="name")]


@dataclass
class Battle:
    """One challenge with the answers of two models.

    Attributes:
        attacker: Position of the challenger among the models.
        defender: Position of the other model.
        challenge: The challenge.
        answers: The answers, by position of their author.
        votes: For each vote, the attacker's part of it.
        journal: Keys of all votes.
        error: Why a vote failed; the battle is then not decided.
        unreadable: Why the first vote that is none could not be read.
    """

    attacker: int
    defender: int
    challenge: Draft
    answers: dict[int, Draft] = field(default_factory=dict)
    votes: list[float] = field(default_factory=list)
    journal: list[str] = field(default_factory=list)
    error: str | None = None
    unreadable: Rejection | None = None

    @property
    def score(self) -> float | None:
        """The attacker's fraction of the votes; None where nobody voted."""
        return sum(self.votes) / len(self.votes) if self.votes else None


def _check(options: SimpleNamespace) -> None:
    number, needed = len(options.models or ()), 2 if options.judges else 3
    if number < needed:
        raise OptionError(
            *("models", f"must name at least {needed} models, got {number}"),
            why="two fight, and a third judges",
            hint="models: [ONE, TWO, THREE], or two of them and judges: [ANOTHER]",
        )
    if isinstance(options.challenges, OpenedTurn):
        for model in options.models:
            check_template(model, "models")


@stage(
    version=4,
    scope="set",
    adds=ADDS,
    check=_check,
    later=("judge_max_tokens", "keep_reasoning"),
)
def arena(
    ctx: Context,
    *,
    models: tuple[LanguageModel, ...],
    num_challenges: Count,
    judges: tuple[LanguageModel, ...] = (),
    challenges: Challenges = OpenedTurn(),
    elo_weight: Fraction = 0.5,
    seed: int = 0,
    temperature: NonNegativeFloat = 0.0,
    max_tokens: Count = 1024,
    judge_max_tokens: Count = JUDGE_MAX_TOKENS,
    keep_reasoning: bool = False,
    source: str = "arena",
    license: str = "unspecified",
) -> Records:
    """New records: two for each battle, the attacker's answer and the defender's.

    Adds `journal`; `attacker`, `author` and `opponent` (models by their names here);
    `votes` (the author's fraction of `voters` votes, null without any), `elo` (the author's
    rating after all battles) and `arena_score` = (1 - elo_weight) * votes + elo_weight *
    the fraction that Elo expects of the author.

    Args:
        models: Who fights: at least three, or two with `judges`.
        num_challenges: Challenges of each model; the defenders take turns.
        judges: Who votes; by default the models that are not in the battle.
        challenges: How models are brought to pose a task: opened_turn or asked.
        elo_weight: Weight of the rating in the score. The paper weighs both without saying
            how; one half is ours.
        seed: Seed of the sampling.
        temperature: Of the answers.
        max_tokens: Limit of an answer in tokens.
        judge_max_tokens: Limit of a vote in tokens.
        keep_reasoning: Whether what a model reasoned before its answer becomes the answer's
            `reasoning`.
        source: Name of the new records' source.
        license: License of what the models write, which only the user can know.

    Returns:
        The new records. Rows are dropped as `no_votes` (the opponent has no answer), as
        `unreadable` where no vote can be read (others do not count), and for challenges and
        answers that were cut or empty as `challenge_cut`, `challenge_unparsed`, `response_cut`,
        `response_unparsed`. A vote that failed leaves its battle undecided: both rows have
        failed.

    Example:
        ```yaml
        duels:
          uses: generate.arena
          with:
            models: [qwen, llama, mistral]
            num_challenges: 1000
            challenges: {name: asked, domain: statistics}
        ```
    """
    battles = _challenge(ctx, models, num_challenges, challenges, seed)
    _answer(ctx, models, battles, Decoding(max_tokens, temperature), seed)
    verdict = Decoding(max_tokens=judge_max_tokens, choice=tuple(_VOTES))
    _vote(ctx, judges or models, not judges, battles, verdict, seed)
    scores = [(b.attacker, b.defender, b.score) for b in battles if b.score is not None]
    ratings = elo(scores, len(models))
    drafts = [
        _row(battle, author, models, ratings, elo_weight)
        for battle in battles
        for author in (battle.attacker, battle.defender)
    ]
    reasoning = "response" if keep_reasoning else None
    return to_frame(drafts, _messages, source, ADDS, license, keep_reasoning=reasoning)


def _challenge(
    ctx: Context,
    models: Sequence[LanguageModel],
    number: int,
    challenges: OpenedTurn | Requested,
    seed: int,
) -> list[Battle]:
    """The challenges of every model, each with a defender; the others take turns at that."""
    battles = []
    opened = isinstance(challenges, OpenedTurn)
    decoding = Decoding(challenges.max_tokens, challenges.temperature, challenges.top_p)

    def challenges_of(_: int, engine: Engine) -> list[Draft]:
        drafts = [Draft((), {}, number=sample) for sample in range(number)]
        generate_field(
            *(engine, drafts, "challenge", lambda _: _prompt(challenges), decoding),
            seed=seed,
            parse=users_words if opened else instruction_text,
            role="user" if opened else "assistant",
        )
        return drafts

    for attacker, drafts in enumerate(side_by_side(ctx, models, challenges_of)):
        others = [position for position in range(len(models)) if position != attacker]
        for sample, draft in enumerate(drafts):
            battles.append(Battle(attacker, others[sample % len(others)], draft))
    return battles


def _prompt(challenges: OpenedTurn | Requested) -> Prompt:
    """The prompt for a challenge: nothing stands before an open user's turn."""
    if isinstance(challenges, OpenedTurn):
        return ()
    return user(PROMPTS.render("challenge", domain=challenges.domain))


def _answer(
    ctx: Context,
    models: Sequence[LanguageModel],
    battles: Sequence[Battle],
    decoding: Decoding,
    seed: int,
) -> None:
    """Each model answers all challenges that it is in, at once."""
    for position in range(len(models)):
        for battle in battles:
            if position in (battle.attacker, battle.defender):
                answer = battle.challenge.child()
                answer.rejection, answer.error = battle.challenge.rejection, battle.challenge.error
                battle.answers[position] = answer

    def answer_all(position: int, engine: Engine) -> None:
        answers = [b.answers[position] for b in battles if position in b.answers]
        generate_field(
            *(engine, answers, "response", lambda d: user(d["challenge"]), decoding), seed=seed
        )

    side_by_side(ctx, models, answer_all)


def _vote(
    ctx: Context,
    judges: Sequence[LanguageModel],
    judges_fight: bool,
    battles: Sequence[Battle],
    decoding: Decoding,
    seed: int,
) -> None:
    """All judges vote on all battles that they are not in, in both orders."""
    answered = [b for b in battles if all(answer.active for answer in b.answers.values())]

    def ballots_of(position: int, engine: Engine) -> list[Draft]:
        judged = [
            b for b in answered if not judges_fight or position not in (b.attacker, b.defender)
        ]
        ballots = [
            Draft((), {"battle": battle, "order": order})
            for battle in judged
            for order in permutations((battle.attacker, battle.defender))
        ]
        generate_field(engine, ballots, "verdict", _ballot, decoding, seed=seed)
        return ballots

    for ballots in side_by_side(ctx, judges, ballots_of):
        for ballot in ballots:
            battle: Battle = ballot["battle"]
            battle.journal += ballot.journal
            battle.error = battle.error or ballot.error
            battle.unreadable = battle.unreadable or ballot.rejection
            if ballot.active:
                vote = _VOTES[ballot["verdict"]]
                first = ballot["order"][0] == battle.attacker
                battle.votes.append(vote if first else 1 - vote)


def _ballot(draft: Draft) -> Prompt:
    battle, order = draft["battle"], draft["order"]
    first, second = (battle.answers[position]["response"] for position in order)
    challenge = battle.challenge["challenge"]
    return user(PROMPTS.render("verdict", challenge=challenge, first=first, second=second))


def elo(battles: Sequence[tuple[int, int, float]], players: int) -> list[float]:
    """Elo ratings after battles (Elo 1978).

    A battle changes the ratings by K (s - e), where e = 1 / (1 + 10^((b - a) / 400)) is the
    expected score of a rating a against b; K is 32.

    >>> elo([(0, 1, 1.0)], players=2)
    [1016.0, 984.0]

    Args:
        battles: (a player, another, the first one's score from 0 to 1), in their order.
        players: Number of players.
    """
    ratings = [_START_RATING] * players
    for a, b, score in battles:
        change = _K_FACTOR * (score - expected(ratings[a], ratings[b]))
        ratings[a] += change
        ratings[b] -= change
    return ratings


def expected(a: float, b: float) -> float:
    """The score that a rating a is expected to reach against b.

    >>> expected(1000, 1000)
    0.5
    """
    return float(1 / (1 + 10 ** ((b - a) / _SCALE)))


def _row(
    battle: Battle,
    author: int,
    models: Sequence[LanguageModel],
    ratings: Sequence[float],
    weight: float,
) -> Draft:
    """One answer with its votes and ratings."""
    opponent = battle.defender if author == battle.attacker else battle.attacker
    draft = battle.answers[author]
    draft.journal += battle.journal
    score = battle.score if author == battle.attacker or battle.score is None else 1 - battle.score
    names = model_names(models)
    draft.fields |= {
        "attacker": names[battle.attacker],
        "author": names[author],
        "opponent": names[opponent],
        "votes": score,
        "voters": len(battle.votes),
        "elo": ratings[author],
    }
    if draft.active and battle.error is not None:
        draft.error = battle.error
    elif score is not None:
        strength = expected(ratings[author], ratings[opponent])
        draft.fields["arena_score"] = (1 - weight) * score + weight * strength
    elif draft.active and battle.unreadable is not None:
        draft.rejection = battle.unreadable
    elif draft.active:
        draft.reject("no_votes", opponent_answered=battle.answers[opponent].active)
    return draft


def _messages(draft: Draft) -> RowMessages:
    return task_messages(draft.fields.get("challenge", ""), "", draft.fields.get("response", ""))
