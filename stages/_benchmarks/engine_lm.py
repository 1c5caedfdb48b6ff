"""A language model of ours as lm-evaluation-harness sees one.

The harness renders prompts, tokenises pairs of context and continuation, and scores; likelihoods
and answers come from the stage's engine, so that they are those of every other stage, and
generated answers are in the journal. Imported only where the harness is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from lm_eval.api.model import TemplateLM

from pipeline.errors import UserError
from pipeline.models.base import Decoding, Engine, Request, Scored
from stages._llm.drafts import user

GREEDY_UNKNOWN = False
"""Whether a continuation is the greedy one: engines give the likelihoods of tokens alone. Metrics
that need to know it are refused (`task_files`)."""


SHARED: Final = 64
"""Tokens of a context from which on it is read once for all of its continuations."""


class EngineLM(TemplateLM):  # type: ignore[misc]
    """An engine behind the harness's interface.

    Args:
        engine: The model under test.
        chat: Whether what is generated answers a user's turn instead of continuing a text.
        seed: Enters the keys of the requests.

    Attributes:
        truncated: How many prompts were cut at their beginning to fit the model's context.
        unanswered: How many answers were withheld or did not come to an end of their reasoning.
    """

    def __init__(self, engine: Engine, *, chat: bool, seed: int) -> None:
        super().__init__()
        self._engine = engine
        self._chat = chat
        self._seed = seed
        self.truncated = 0
        self.unanswered = 0

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(self._engine.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What a text without context is conditioned on: the first token of every text."""
        first = self._engine.tokenizer.bos_token_id
        return self.eot_token_id if first is None else int(first)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """The tokens of a text.

        Args:
            string: The text.
            add_special_tokens: Whether those that the tokenizer puts around it are there; None: as
                it does by itself.
            **_: Ignored.
        """
        tokenizer = self._engine.tokenizer
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        bos = tokenizer.bos_token
        if add_special_tokens is None and bos and string.startswith(bos):
            special = {"add_special_tokens": False}
        return list(tokenizer.encode(string, **special))

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """As the harness has it, without a progress bar of its own.

        Args:
            requests: Pairs of context and continuation.
            disable_tqdm: Whether its bar is hidden.
        """
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)  # type: ignore[no-any-return]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        limit = self._engine.context_tokens
        sequences = []
        for _, context, continuation in requests:
            tokens = [*context, *continuation]
            if limit is not None and len(tokens) > limit:
                self.truncated += 1
                tokens = tokens[-limit:]
            start = max(1, len(tokens) - len(continuation))
            # A long context is read once for all choices.
            prefix = start - 1 if start > SHARED else 0
            sequences.append(Scored(tuple(tokens[prefix:]), start - prefix, tuple(tokens[:prefix])))
        # Equal pairs are scored once: shots may leave many of them.
        distinct = list(dict.fromkeys(sequences))
        scores = dict(zip(distinct, self._engine.loglikelihood(distinct), strict=True))
        return [(float(scores[one].sum(dtype="float64")), GREEDY_UNKNOWN) for one in sequences]

    def loglikelihood_rolling(  # the harness asks for it by name
        self,
        requests: Any,  # noqa: ARG002
        disable_tqdm: bool = True,  # noqa: ARG002
    ) -> list[float]:
        """Refused: `task_files` lets no such task through.

        Args:
            requests: Texts.
            disable_tqdm: Ignored.

        Raises:
            UserError: In any case.
        """
        raise UserError("a benchmark must not ask for the likelihood of whole texts")

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:  # noqa: ARG002
        """Answers up to a stop, durable in the journal before anything reads them.

        Args:
            requests: Each with a context and how it is continued.
            disable_tqdm: Ignored.

        Raises:
            UserError: A request was not answered.
        """
        samples: Counter[tuple[str, str]] = Counter()
        sent = []
        for context, options in (request.args for request in requests):
            number = samples[(key := (context, repr(options)))]
            samples[key] += 1
            prompt = user(context) if self._chat else context
            sent.append(Request(prompt, decoding_of(options), self._seed, number))
        answers = self._engine.generate(sent)
        errors = [a.error for a in answers if a.error is not None and a.finish_reason == "error"]
        if errors:
            raise UserError(
                f"{len(errors)} of {len(sent)} requests were not answered",
                why=errors[0],
                hint="run it again: what was answered is kept",
            )
        self.unanswered += sum(
            a.finish_reason in ("withheld", "reasoning_unclosed") for a in answers
        )
        return [answer.text for answer in answers]


def decoding_of(options: dict[str, Any]) -> Decoding:
    """How a task says that its answers are decoded.

    Args:
        options: The task's `generation_kwargs`.

    >>> options = {"until": ["\\n"], "max_gen_toks": 8, "do_sample": False, "temperature": 0.7}
    >>> decoding = decoding_of(options)
    >>> decoding.max_tokens, decoding.temperature, decoding.stop
    (8, 0.0, ('\\n',))
    """
    until = options.get("until") or []
    sampled = bool(options.get("do_sample"))
    return Decoding(
        max_tokens=int(options.get("max_gen_toks", 256)),
        temperature=float(options.get("temperature") or 0.0) if sampled else 0.0,
        top_p=float(options.get("top_p", 1.0)) if sampled else 1.0,
        top_k=options.get("top_k") if sampled else None,
        stop=tuple(text for text in ([until] if isinstance(until, str) else until) if text),
    )
