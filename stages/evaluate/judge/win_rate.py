"""How often a judge prefers a model's answer to that of a baseline, in both orders.

AlpacaFarm: AlpacaFarm: A Simulation Framework for Methods that Learn from Human Feedback (Dubois et
al. 2023, arXiv:2305.14387; tatsu-lab/alpaca_eval).

As in the paper: the share of prompts at which the model's answer is preferred, a tie being half a
win; its standard error is that of a mean. Ours: each pair is judged in both orders, against a judge
that favours a position (there the order is drawn), so that votes that contradict each other are a
tie; the wording.

Length control: Length-Controlled AlpacaEval: A Simple Way to Debias Automatic Evaluators (Dubois et
al. 2024, arXiv:2404.04475).

As in the paper: a logistic regression on the tanh of the standardised difference of lengths gives
the rate at equal lengths; a second term for the difficulty of an instruction, which a joint
regression on other models' judged answers gives. Ours: the other models are an edge, without which
there is no such term; a ridge of weight 1.

Tülu 1 (Camels): How Far Can Camels Go? Exploring the State of Instruction Tuning on Open Resources
(Wang et al. 2023, arXiv:2306.04751).

As in the paper: a win rate against a fixed baseline beside benchmarks. Ours: the baseline is an
edge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import sqrt
from typing import Any, Final, Literal

import numpy as np
import polars as pl

from pipeline.types import option_group
from schemas.turns import View
from stages._llm.drafts import Prompt, user
from stages._llm.judging.bias import Bias
from stages._llm.judging.exchanges import Exchange, answers_by_prompt, exchanges
from stages._llm.judging.labels import Judge, Judgement, errors_without_answers, first_error
from stages._llm.prompts import Prompts
from stages._llm.ratings import leading_scores
from stages.evaluate.judge.length_control import instruction_difficulties, length_controlled

PROMPTS: Final = Prompts(__file__)

ADDS: Final[dict[str, Any]] = {"eval_preference": pl.Float64(), "eval_orders_agree": pl.Boolean()}
NO_BASELINE: Final = "no_baseline"

_SHARE_OF_FIRST: Final = {"A": 1.0, "B": 0.0, "tie": 0.5}
_SCORE_TOKENS: Final = 512


@option_group
class WinRate:
    """The share of prompts at which the row's answer is preferred to the baseline's.

    Adds `eval_preference` (from 0 to 1, the mean of both orders) and `eval_orders_agree`.

    Args:
        name: "win_rate".
        form: What the judge says. label: A, B or tie, of which the probabilities count. scores: two
            numbers from 1 to 10 on the first line and reasons behind them (Vicuna's judge, as in
            DiverseEvol); the larger one wins, and the ratio of their sums is reported too.
        ties: Whether a label may be "tie".
        length: What counts as the length of an answer: characters, as in AlpacaEval, or words.
    """

    name: Literal["win_rate"] = "win_rate"
    form: Literal["label", "scores"] = "label"
    ties: bool = True
    length: Literal["characters", "words"] = "characters"


def compare(
    judge: Judge,
    rows: pl.DataFrame,
    baseline: pl.DataFrame,
    method: WinRate,
    others: Mapping[str, pl.DataFrame] | None = None,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The added columns with errors, and the summary.

    Args:
        judge: The judge.
        rows: Answers of the model under test.
        baseline: Answers to the same prompts.
        method: The options.
        others: Other models' answers with their `eval_preference` against the same baseline.
    """
    judged = exchanges(rows, judge.view)
    rivals = answers_by_prompt(judged, baseline, judge.view)
    errors = errors_without_answers(len(rows), judged)
    for one in judged:
        if one.prompt not in rivals:
            errors[one.row] = judge.note(one.row, None, (NO_BASELINE, {"prompt": one.prompt}))
    pairs = [(one, rivals[one.prompt]) for one in judged if one.prompt in rivals]
    votes, totals = _votes(judge, pairs, method)
    preferences: list[float | None] = [None] * len(rows)
    agree: list[bool | None] = [None] * len(rows)
    bias, decided, prompts = Bias(), [], []
    for (one, rival), first, second in zip(pairs, votes[::2], votes[1::2], strict=True):
        if isinstance(first, str) or isinstance(second, str):
            errors[one.row] = first_error((first, second))
            continue
        share = (first + 1 - second) / 2
        preferences[one.row] = share
        agree[one.row] = _side(first) == _side(1 - second)
        bias.add_pair(_side(first), _side(1 - second), (len(one.response), len(rival.response)))
        decided.append((share, _length(one, method), _length(rival, method)))
        prompts.append(one.prompt)
    frame = pl.DataFrame(
        {"eval_preference": preferences, "eval_orders_agree": agree, "error": errors},
        schema={**ADDS, "error": pl.String()},
    )
    difficulties: list[float] | None = None
    if others:
        known = _difficulties(others, rivals, judge.view, method)
        difficulties = [known.get(prompt, 0.0) for prompt in prompts]
        totals |= {"prompts_without_difficulty": sum(prompt not in known for prompt in prompts)}
    return frame, summary(decided, difficulties) | totals | {"bias": bias.facts()}


def _difficulties(
    others: Mapping[str, pl.DataFrame],
    rivals: Mapping[str, Exchange],
    view: View,
    method: WinRate,
) -> dict[str, float]:
    """The difficulty of each prompt that other models' judged answers are to.

    An answer without a preference, which the judge did not give, says nothing.
    """
    models = {}
    for name, rows in others.items():
        models[name] = [
            (one.prompt, preference, _length(one, method) - _length(rivals[one.prompt], method))
            for one in exchanges(rows, view)
            if (preference := rows["eval_preference"][one.row]) is not None
            if one.prompt in rivals
        ]
    return instruction_difficulties({name: judged for name, judged in models.items() if judged})


def _side(share: float) -> float:
    """Which side a vote is for: 1, 0, or 0.5 for a tie."""
    return 0.5 if share == 0.5 else float(share > 0.5)


def _length(one: Exchange, method: WinRate) -> int:
    return len(one.response.split()) if method.length == "words" else len(one.response)


def _votes(
    judge: Judge, pairs: Sequence[tuple[Exchange, Exchange]], method: WinRate
) -> tuple[list[Judgement], dict[str, Any]]:
    """The share of the answer in first place, of each pair in both orders; and sums of scores.

    The row of a vote is always that of the model under test.
    """
    orders = [order for pair in pairs for order in (pair, pair[::-1])]
    owners = [pair[0] for pair in pairs for _ in range(2)]
    prompts = [_ballot(first, second, method) for first, second in orders]
    if method.form == "label":
        labels = {k: v for k, v in _SHARE_OF_FIRST.items() if method.ties or k != "tie"}
        return judge.expected_values(owners, prompts, labels), {}
    scores = judge.read_texts(owners, prompts, leading_scores, _SCORE_TOKENS)
    votes: list[Judgement] = [one if isinstance(one, str) else _share(one) for one in scores]
    return votes, relative_score([None if isinstance(one, str) else one for one in scores])


def _share(scores: tuple[float, float]) -> float:
    return 0.5 if scores[0] == scores[1] else float(scores[0] > scores[1])


def relative_score(scores: Sequence[tuple[float, float] | None]) -> dict[str, Any]:
    """The sum of a model's scores by that of the baseline's (DiverseEvol).

    Args:
        scores: The two scores of each vote as they were written, of a pair in both orders one after
            the other; None where there is none. Pairs of which a vote is missing do not count.

    >>> relative_score([(7.0, 9.0), (9.0, 6.0)])["relative_score"]
    0.7222222222222222
    """
    own = other = 0.0
    for first, second in zip(scores[::2], scores[1::2], strict=True):
        if first is not None and second is not None:
            own += first[0] + second[1]
            other += first[1] + second[0]
    return {"relative_score": own / other if other else None}


def _ballot(first: Exchange, second: Exchange, method: WinRate) -> Prompt:
    values = {
        "conversation": first.conversation,
        "first": first.response,
        "second": second.response,
        "ties": method.ties,
    }
    return user(PROMPTS.render(method.form, **values))


def summary(
    decided: Sequence[tuple[float, float, float]], difficulties: Sequence[float] | None = None
) -> dict[str, Any]:
    """The win rate with its standard error, as it is and at equal lengths.

    Args:
        decided: For each pair the preference, the answer's length and the baseline's.
        difficulties: Of each pair's prompt, where they are known.

    Returns:
        `pairs`, `wins`, `losses`, `ties`, `win_rate`, `stderr`, `discrete_win_rate` (preferences
        count as 1, 0 or 0.5), `length_controlled` (None where it cannot be fitted), `mean_length`
        and `baseline_mean_length`.

    >>> result = summary([(1.0, 10, 5), (0.5, 4, 4), (0.0, 3, 9), (1.0, 7, 5)])
    >>> result["win_rate"], round(result["stderr"], 4), result["wins"]
    (0.625, 0.2394, 2)
    """
    shares, own, other = np.array(decided, dtype=np.float64).reshape(-1, 3).T
    n = len(shares)
    sides = np.where(shares == 0.5, 0.5, shares > 0.5)
    controlled = length_controlled(shares.tolist(), (own - other).tolist(), difficulties)
    return {
        "pairs": n,
        "wins": int((sides == 1).sum()),
        "losses": int((sides == 0).sum()),
        "ties": int((sides == 0.5).sum()),
        "win_rate": _mean(shares),
        "stderr": float(shares.std(ddof=1) / sqrt(n)) if n > 1 else None,
        "discrete_win_rate": _mean(sides),
        "length_controlled": asdict(controlled) if controlled else None,
        "mean_length": _mean(own),
        "baseline_mean_length": _mean(other),
    }


def _mean(values: Any) -> float | None:
    return float(values.mean()) if len(values) else None


def lines(result: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The numbers for people, by name.

    Args:
        result: What `compare` summed up.
    """
    controlled = result["length_controlled"] or {}
    shown = {k: v for k, v in result.items() if not isinstance(v, dict) and v is not None}
    shown |= {f"length-controlled {name}": value for name, value in controlled.items()}
    for kind, measures in result.get("bias", {}).items():
        shown |= {f"{kind}: {name}": value for name, value in measures.items()}
    return [(name.replace("_", " "), value) for name, value in shown.items()]
