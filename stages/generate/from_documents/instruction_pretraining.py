"""Instruction Pre-Training: texts with question-answer pairs about them.

Instruction Pre-Training: Language Models are Supervised Multitask Learners (Cheng et al. 2024,
arXiv:2406.14491; microsoft/LMOps). As in the paper: a row holds M passages, each followed by
pairs about it, so that a model that is trained on the row learns from examples; the synthesizer
is shown what the row holds so far; the authors' synthesizer has a prompt format of its own
(`task_model`). As in the authors' code: 400 tokens at temperature 0, up to five pairs of a
passage, and the estimate of tokens by which a prompt fits the context.

Ours: any other model gets a prompt of ours; M is 2 by default; `turns` writes a conversation,
where the paper trains on the text (`output_format: text`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final, Literal

from pipeline.models.base import Decoding
from pipeline.types import Count, option_group
from stages._llm.drafts import Draft, Prompt
from stages._llm.prompts import Prompts
from stages._llm.rows import joint_license
from stages.generate._parsing.sections import PAIR, sections
from stages.generate.from_documents.context import DocumentMethod, GenerationContext

PROMPTS: Final = Prompts(__file__)

_TOKENS_PER_WORD: Final = 1.5
"""The released code's estimate."""


@option_group
class InstructionPretraining(DocumentMethod):
    """Instruction Pre-Training: passages with pairs, several to a row (Cheng et al. 2024).

    Args:
        name: The method.
        per_passage: Largest number of pairs of a passage.
        num_shots: M, the passages of a row; the earlier ones are examples for the later.
        task_model: The model is the authors' synthesizer and is prompted in its own format.
        output_format: `turns`: a conversation with a turn for each question. `text`: a
            single assistant turn with all passages and pairs, as the paper trains on.
    """

    name: Literal["instruction-pretraining"] = "instruction-pretraining"
    per_passage: Count = 5
    num_shots: Count = 2
    task_model: bool = False
    output_format: Literal["turns", "text"] = "turns"

    decoding: ClassVar[Decoding] = Decoding(400, 0.0)

    def run(self, context: GenerationContext, passages: list[Draft]) -> list[Draft]:
        """Rows of `num_shots` passages with their pairs.

        Round n requests the n-th passage of every row, with what the row holds so far as
        examples. A passage without readable pairs ends its row. One that would make the
        prompt too long begins a new row.
        """
        active = [draft for draft in passages if draft.active]
        unused = [draft for draft in passages if not draft.active]
        width = -(-len(active) // self.num_shots)
        finished: list[list[Draft]] = []
        rows: list[list[Draft]] = [[] for _ in range(width)]
        for number in range(self.num_shots):
            new = active[number * width : (number + 1) * width]
            for i, draft in enumerate(new):
                if not _fits(context, [*rows[i], draft]):
                    finished.append(rows[i])
                    rows[i] = []
                draft.fields["before"] = [*rows[i]]
            context.generate(
                *(new, "pairs", self._prompt),
                parse=synthesized_pairs if self.task_model else _labelled_pairs,
                keep_cut=self.task_model,
            )
            for i, draft in enumerate(new):
                if draft.active:
                    draft.fields["pairs"] = draft["pairs"][: self.per_passage]
                    rows[i].append(draft)
                else:
                    unused.append(draft)
                    finished.append(rows[i])
                    rows[i] = []
            context.progress(number + 1, self.num_shots)
        return [self._row(drafts) for drafts in [*finished, *rows] if drafts] + unused

    def _prompt(self, draft: Draft) -> Prompt:
        """The passage after what the row holds so far, as earlier turns of a conversation."""
        if self.task_model:
            examples = "".join(map(_task_model_example, draft["before"]))
            return examples + _task_model_passage(draft)
        turns: list[tuple[str, str]] = []
        for example in draft["before"]:
            pairs = "\n\n".join(f"Question: {q}\nAnswer: {a}" for q, a in example["pairs"])
            turns += [("user", self._request(example)), ("assistant", pairs)]
        return (*turns, ("user", self._request(draft)))

    def _request(self, draft: Draft) -> str:
        values = {"passage": draft["passage"], "count": self.per_passage}
        return PROMPTS.render("pairs", **values)

    def _row(self, drafts: Sequence[Draft]) -> Draft:
        """The draft of a row with the passages and pairs of several drafts."""
        texts = [(draft["passage"].strip(), draft["pairs"]) for draft in drafts]
        if self.output_format == "text":
            text = PROMPTS.render("text", texts=texts).strip()
            messages = [{"role": "assistant", "content": text}]
        else:
            messages = _turns(texts)
        return Draft(
            tuple(dict.fromkeys(draft["document"] for draft in drafts)),
            {"messages": messages},
            joint_license(draft.license for draft in drafts),
            notes={"passages": [draft["passage_number"] for draft in drafts]},
            journal=[key for draft in drafts for key in draft.journal],
        )


def _turns(texts: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> list[dict[str, Any]]:
    """Questions and answers in turns; the first question of a passage follows its text."""
    messages = []
    for passage, pairs in texts:
        for position, (question, answer) in enumerate(pairs):
            content = question if position else f"{passage}\n\n{question}"
            messages.append({"role": "user", "content": content})
            messages.append({"role": "assistant", "content": answer})
    return messages


def _fits(context: GenerationContext, row: Sequence[Draft]) -> bool:
    """Whether a row leaves room for the completion; a single passage always does."""
    if context.context_tokens is None:
        return True
    words = sum(len(draft["passage"].split()) for draft in row)
    words += sum(len(t.split()) for draft in row[:-1] for pair in draft["pairs"] for t in pair)
    num_tokens = _TOKENS_PER_WORD * words
    return len(row) == 1 or num_tokens <= context.context_tokens - context.max_tokens


def _task_model_passage(draft: Draft) -> str:
    """A passage in the format that the released synthesizer was tuned on."""
    return f"<s> <CON> {draft['passage']} </CON>\n\n"


def _task_model_example(draft: Draft) -> str:
    pairs = "\n\n".join(f"<QUE> {q} <ANS> {a} </END>" for q, a in draft["pairs"])
    return f"{_task_model_passage(draft)}{pairs}</s>"


def _labelled_pairs(text: str) -> list[tuple[str, str]] | None:
    pairs = [(pair["Question"], pair["Answer"]) for pair in sections(text, PAIR)]
    return _distinct(pairs) or None


def synthesized_pairs(text: str) -> list[tuple[str, str]] | None:
    """The pairs in a completion of the released synthesizer, without an unfinished last one.

    Example:
        >>> synthesized_pairs("<QUE> Who? <ANS> Ada. </END>\\n\\n<QUE> When")
        [('Who?', 'Ada.')]
    """
    pairs = []
    for part in text.split("</END>")[:-1]:
        question, *answers = part.split("<ANS>")
        if question.strip().startswith("<QUE>") and len(answers) == 1 and answers[0].strip():
            pairs.append((question.replace("<QUE>", "").strip(), answers[0].strip()))
    return _distinct(pairs) or None


def _distinct(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The first of all pairs with the same question, whatever its case."""
    first: dict[str, tuple[str, str]] = {}
    for pair in pairs:
        first.setdefault(pair[0].casefold(), pair)
    return list(first.values())
