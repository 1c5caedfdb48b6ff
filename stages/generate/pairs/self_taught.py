"""A model's answer to a prompt against its good answer to a related but different one.

Self-Taught Evaluators (Wang et al. 2024, arXiv:2408.02666; facebookresearch/RAM). As in the
paper: the rejected side is well written and misses the question, and both sides are the model's
own writing, so that style does not say which is which. Ours: the wording. The paper goes on to
train a judge on verdicts about such pairs; here the pairs are the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from pipeline.types import option_group
from stages._llm.prompts import Prompts
from stages.generate.pairs.candidates import Writer, chat_prompt, unwritten
from stages.generate.pairs.proposals import Answer, Proposal, by_prompt, paired, without_pair

PROMPTS: Final = Prompts(__file__)


@option_group
class SelfTaught:
    """The model's answer to each prompt against its answer to a related one.

    The last user's turn is replaced in the related prompt. Drops `related_cut`,
    `related_unparsed`, `answer_cut` and `answer_unparsed`, and `same_prompt`, where the
    related one is the prompt itself.
    """

    name: Literal["self_taught"] = "self_taught"


def self_taught_pairs(writer: Writer, answers: Sequence[Answer]) -> list[Proposal]:
    """The proposals of `SelfTaught`.

    Args:
        writer: The model that writes all.
        answers: Answers to the prompts; they themselves are not used.
    """
    prompts = [group[0] for group in by_prompt(answers).values()]
    requests = [
        (("user", PROMPTS.render("related", request=chat_prompt(one)[-1][1])),) for one in prompts
    ]
    related = writer.texts(requests)
    proposals: list[Proposal] = []
    open_ = []
    for answer, completion in zip(prompts, related, strict=True):
        if failed := unwritten(answer, completion, "related"):
            proposals.append(failed)
        elif completion.value == chat_prompt(answer)[-1][1].strip():
            same = without_pair([answer], "same_prompt")
            same.journal = list(completion.journal)
            proposals.append(same)
        else:
            open_.append((answer, completion))
    own = [chat_prompt(answer) for answer, _ in open_]
    others = [(*chat_prompt(answer)[:-1], ("user", text.value)) for answer, text in open_]
    texts = writer.texts([*own, *others])
    for (answer, about), good, bad in zip(
        open_, texts[: len(open_)], texts[len(open_) :], strict=True
    ):
        failed = unwritten(answer, good, "answer") or unwritten(answer, bad, "answer")
        proposal = failed or paired(
            writer.written(answer, good), writer.written(answer, bad), related=about.value
        )
        proposal.journal = [*about.journal, *good.journal, *bad.journal]
        proposals.append(proposal)
    return proposals
