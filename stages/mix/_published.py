"""Mixtures as their papers publish them: rows of each part, or rates.

Counts are of rows. Where the parts do not sum to the total that was released, both numbers are
given: parts are rounded, or were cut after they had been counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

Mixture = Literal["tulu-1", "tulu-2", "tulu-3", "dmt", "flan-palm", "flan-collection"]

MIXTURES: Final[Mapping[Mixture, Mapping[str, float]]] = {
    # Wang et al. 2023, arXiv:2306.04751, the mixture of human and of GPT data. The parts sum to
    # 490,694; the released set has 490,445 rows.
    "tulu-1": {
        "flan": 100_000,
        "cot": 100_000,
        "dolly": 15_011,
        "oasst": 34_795,
        "gpt4-alpaca": 52_002,
        "code-alpaca": 20_022,
        "sharegpt": 168_864,
    },
    # Ivison et al. 2023, arXiv:2311.10702. The parts sum to 330,490; the released set has 326,154
    # rows.
    "tulu-2": {
        "flan": 50_000,
        "cot": 50_000,
        "oasst": 7_708,
        "sharegpt": 114_046,
        "gpt4-alpaca": 20_000,
        "code-alpaca": 20_022,
        "lima": 1_030,
        "evol-instruct": 30_000,
        "open-orca": 30_000,
        "science": 7_544,
        "hard-coded": 140,
    },
    # Lambert et al. 2024, arXiv:2411.15124, the card of the released set. The parts sum to
    # 939,344, its number of rows.
    "tulu-3": {
        "coconot": 10_983,
        "flan": 89_982,
        "no-robots": 9_500,
        "oasst": 7_132,
        "persona-math": 149_960,
        "persona-gsm": 49_980,
        "persona-python": 34_999,
        "persona-algebra": 20_000,
        "persona-if": 29_980,
        "numina-math": 64_312,
        "open-math-instruct": 50_000,
        "wild-guard": 50_000,
        "wild-jailbreak": 50_000,
        "hard-coded": 240,
        "aya": 100_000,
        "wild-chat": 100_000,
        "table-gpt": 5_000,
        "sci-riff": 10_000,
        "evol-code-alpaca": 107_276,
    },
    # Dong et al. 2023, arXiv:2310.05492: answers of GSM8K-RFT, Code Alpaca, ShareGPT; all of them
    # in its multi-task training, while DMT parts them into two stages (mix.curriculum).
    "dmt": {"maths": 110_142, "code": 20_022, "general": 86_060},
    # Chung et al. 2022, arXiv:2210.11416: rates of the collections.
    "flan-palm": {"flan": 0.52, "t0": 0.15, "cot": 0.03, "niv2": 0.30},
    # Longpre et al. 2023, arXiv:2301.13688: rates of the collections.
    "flan-collection": {"flan": 0.40, "t0": 0.32, "niv2": 0.20, "cot": 0.05, "dialogue": 0.03},
}
"""The parts of each mixture: numbers of rows, or rates that sum to 1."""


def is_counted(mixture: Mixture) -> bool:
    """Whether a mixture is published as numbers of rows.

    Example:
        >>> [is_counted("tulu-2"), is_counted("flan-palm")]
        [True, False]
    """
    return all(part % 1 == 0 for part in MIXTURES[mixture].values())
