"""How the next token is chosen, and when an answer ends.

Both are hooks into the generation loop of transformers, which runs greedily: the
`Sampler` leaves one token possible in each row, the one that it sampled. Its random
numbers come from the request's key, one for each token, so the same request gives the
same answer in any batch, after any kill, beside any other request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from pipeline.models.base import Decoding
from pipeline.models.journal.requests import PreparedRequest
from schemas.reasoning import CONTROL_TOKENS

NUCLEUS_CANDIDATES = 512
"""Tokens that are sorted at first to find the nucleus; all of them only if it is larger."""


class Sampler(LogitsProcessor):
    """Samples each row's next token by its own decoding and its own random numbers.

    Order of the operations: log-probabilities for the record, penalties on the logits,
    restriction to the choices, the top_k most probable tokens, temperature, softmax,
    nucleus (the smallest set of most probable tokens with mass >= top_p), and the inverse
    of the cumulative distribution at the row's next uniform number.

    Args:
        rows: The requests of the batch.
        steps: Most tokens of an answer in the batch.
        device: Where the logits are.
        choices: For each row the texts that its answer is restricted to; None for no
            restriction.

    Attributes:
        record: For each row that requests logprobs, one (token, logprob, [(token,
            logprob), ...]) for each step, as token ids.
    """

    def __init__(
        self,
        rows: Sequence[PreparedRequest],
        steps: int,
        device: torch.device,
        choices: Sequence[Choices | None] = (),
    ) -> None:
        decodings = [row.decoding for row in rows]
        self.step = 0
        numbers = np.stack([uniforms(row.key, steps) for row in rows])
        self.uniforms = torch.from_numpy(numbers).to(device)
        self.temperature = _column([d.temperature or 1.0 for d in decodings], device)
        self.top_p = _column([d.top_p for d in decodings], device).double()
        self.presence = _column([d.presence_penalty for d in decodings], device)
        self.frequency = _column([d.frequency_penalty for d in decodings], device)
        self.full_rows = _indices([d.temperature > 0 and d.top_p >= 1 for d in decodings], device)
        self.nucleus_rows = _indices([d.temperature > 0 and d.top_p < 1 for d in decodings], device)
        self.top_k = [(i, d.top_k) for i, d in enumerate(decodings) if d.top_k]
        self.choices = [(i, texts) for i, texts in enumerate(choices) if texts]
        self.counts: Tensor | None = None
        self.record: dict[int, list[Any]] = {i: [] for i, d in enumerate(decodings) if d.logprobs}
        self.num_logprobs = {i: decodings[i].logprobs for i in self.record}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        raw = torch.log_softmax(scores[list(self.record)].float(), -1) if self.record else None
        scores = self._restrict(input_ids, self._penalize(input_ids, scores))
        chosen = scores.argmax(-1)
        if len(self.full_rows):
            chosen[self.full_rows] = self._sample(scores, self.full_rows)
        if len(self.nucleus_rows):
            chosen[self.nucleus_rows] = self._sample_nucleus(scores, self.nucleus_rows)
        if raw is not None:
            self._append_to_record(raw, chosen)
        self.step += 1
        only = torch.full_like(scores, -torch.inf)
        return only.scatter_(1, chosen[:, None], 0.0)

    def _penalize(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not (self.presence.any() or self.frequency.any()):
            return scores
        if self.counts is None:
            self.counts = torch.zeros_like(scores)
        else:
            last = input_ids[:, -1:]
            self.counts.scatter_add_(1, last, torch.ones_like(last, dtype=scores.dtype))
        scores = scores - self.presence * (self.counts > 0).to(scores.dtype)
        return scores - self.frequency * self.counts

    def _restrict(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Keep only tokens that continue a choice, and only the top_k most probable ones."""
        if not (self.choices or self.top_k):
            return scores
        scores = scores.clone()
        for i, texts in self.choices:
            allowed = texts.next_tokens(input_ids[i, input_ids.shape[1] - self.step :].tolist())
            if allowed:
                within = scores[i, allowed]
                scores[i] = -torch.inf
                scores[i, allowed] = within
        for i, k in self.top_k:
            minimum = torch.topk(scores[i], min(k, scores.shape[1])).values[-1]
            scores[i] = scores[i].masked_fill(scores[i] < minimum, -torch.inf)
        return scores

    def _append_to_record(self, raw: Tensor, chosen: Tensor) -> None:
        for row, (i, entries) in zip(raw, self.record.items(), strict=True):
            top = torch.topk(row, min(self.num_logprobs[i], row.shape[0]))
            token = int(chosen[i])
            best = list(zip(top.indices.tolist(), top.values.tolist(), strict=True))
            entries.append((token, float(row[token]), best))

    def _probabilities(self, scores: Tensor, rows: Tensor) -> Tensor:
        return torch.softmax(scores[rows] / self.temperature[rows], -1)

    def _sample(self, scores: Tensor, rows: Tensor) -> Tensor:
        mass = self._probabilities(scores, rows).double().cumsum(-1)
        return _inverse_cdf(mass, mass[:, -1:], self.uniforms[rows, self.step])

    def _sample_nucleus(self, scores: Tensor, rows: Tensor) -> Tensor:
        probabilities = self._probabilities(scores, rows)
        top, ids = probabilities.topk(min(NUCLEUS_CANDIDATES, probabilities.shape[1]))
        mass = top.double().cumsum(-1)
        wide = (mass[:, -1:] < self.top_p[rows]).squeeze(1)
        chosen = self._from_nucleus(mass, ids, rows)
        if wide.any():
            top, ids = probabilities[wide].sort(dim=-1, descending=True, stable=True)
            chosen[wide] = self._from_nucleus(top.double().cumsum(-1), ids, rows[wide])
        return chosen

    def _from_nucleus(self, mass: Tensor, ids: Tensor, rows: Tensor) -> Tensor:
        last = torch.searchsorted(mass, self.top_p[rows]).clamp_(max=mass.shape[1] - 1)
        rank = _inverse_cdf(mass, mass.gather(1, last), self.uniforms[rows, self.step])
        return ids.gather(1, rank[:, None]).squeeze(1)


class Choices:
    """Texts as token sequences, and which tokens may follow those sampled so far.

    Each may be spelled as models write it, with a space before it and in another case, unless
    that spelling is longer than an answer may be and another one is not. A text that is the
    beginning of another one may end there, by an end-of-sequence token.

    Args:
        texts: The texts that an answer may be.
        tokenizer: The model's tokenizer.
        eos: The ids of all tokens that end an answer.
        max_tokens: How long an answer may be.
    """

    def __init__(
        self, texts: Sequence[str], tokenizer: Any, eos: set[int], max_tokens: int
    ) -> None:
        self.texts: dict[tuple[int, ...], str] = {}
        self.following: dict[tuple[int, ...], set[int]] = {}
        spelled = [
            (tuple(tokenizer(spelling, add_special_tokens=False)["input_ids"]), text)
            for spelling, text in spellings(texts).items()
        ]
        short = {text for tokens, text in spelled if len(tokens) <= max_tokens}
        for tokens, text in spelled:
            if len(tokens) > max_tokens and text in short:
                continue
            self.texts.setdefault(tokens, text)
            for i, token in enumerate(tokens):
                self.following.setdefault(tokens[:i], set()).add(token)
        self.eos = eos

    def next_tokens(self, tokens: Sequence[int]) -> list[int]:
        """The ids that may come next, ascending; empty after a complete text."""
        allowed = self.following.get(tuple(tokens), set())
        return sorted(allowed | self.eos if allowed and tuple(tokens) in self.texts else allowed)

    def is_complete(self, tokens: Sequence[int]) -> bool:
        """Whether the tokens are one of the texts and the beginning of no other one."""
        return tuple(tokens) in self.texts and tuple(tokens) not in self.following

    def text(self, tokens: Sequence[int]) -> str | None:
        """The text of these tokens, without an end-of-sequence token; None for other tokens."""
        ended = bool(tokens) and tokens[-1] in self.eos and tuple(tokens) not in self.texts
        return self.texts.get(tuple(tokens[:-1] if ended else tokens))


def spellings(texts: Sequence[str]) -> dict[str, str]:
    """How texts may be spelled, each spelling with its text.

    Args:
        texts: The texts. A spelling that two of them share is neither's, except where it is
            the text itself.

    Example:
        >>> list(spellings(["yes"]))
        ['yes', 'Yes', 'YES', ' yes', ' Yes', ' YES']
    """
    spelled: dict[str, set[str]] = {}
    for text in texts:
        cases = dict.fromkeys((text, text.lower(), text[:1].upper() + text[1:], text.upper()))
        for spelling in (*cases, *(f" {case}" for case in cases)):
            spelled.setdefault(spelling, set()).add(text)
    itself = {text: text for text in texts}
    shared = {spelling: next(iter(of)) for spelling, of in spelled.items() if len(of) == 1}
    return itself | {s: text for s, text in shared.items() if s not in itself}


class Answers(StoppingCriteria):
    """Collects the answers token by token and decides which rows are finished.

    A row ends at an end-of-sequence or a stop token, when a stop text appears, when a choice is
    complete, or at its own max_tokens.

    Args:
        rows: The requests of the batch.
        size: Rows of the batch. Those after the first `len(rows)` only fill it and are
            finished from the start, so that nothing waits for them.
        eos: The ids of all tokens that end an answer.
        tokenizer: The model's tokenizer.
        choices: For each row the texts that its answer is restricted to; None for no
            restriction.
    """

    def __init__(
        self,
        rows: Sequence[PreparedRequest],
        size: int,
        eos: set[int],
        tokenizer: Any,
        choices: Sequence[Choices | None] = (),
    ) -> None:
        self.rows, self.size, self.eos, self.tokenizer = rows, size, eos, tokenizer
        self.tokens: list[list[int]] = [[] for _ in rows]
        self.reasons: list[str | None] = [None] * len(rows)
        self.choices = choices or [None] * len(rows)
        self.marks = reasoning_tokens(tokenizer)
        self.special = set(tokenizer.all_special_ids) if self.marks else set()
        # A token is at least one byte, so the longest stop text is within this many tokens.
        self.tails = [_longest(row.decoding) + 4 if row.decoding.stop else 0 for row in rows]

    def __call__(self, input_ids: Tensor, *_: Any, **__: Any) -> Tensor:
        # A Python loop over tens of rows: negligible beside the model's milliseconds.
        for i, token in enumerate(input_ids[: len(self.rows), -1].tolist()):
            if self.reasons[i] is None:
                self.tokens[i].append(token)
                self.reasons[i] = self._reason(i, token)
        finished = [reason is not None for reason in self.reasons]
        finished += [True] * (self.size - len(finished))
        return torch.tensor(finished, device=input_ids.device)

    def _reason(self, i: int, token: int) -> str | None:
        decoding, choices = self.rows[i].decoding, self.choices[i]
        ends = token in self.eos or token in self.rows[i].stop_tokens
        if ends or (choices and choices.is_complete(self.tokens[i])):
            return "stop"
        if self.tails[i]:
            tail = self._text(self.tokens[i][-self.tails[i] :])
            if any(stop in tail for stop in decoding.stop):
                return "stop"
        return "length" if len(self.tokens[i]) >= decoding.max_tokens else None

    def _text(self, tokens: list[int]) -> str:
        """The text of tokens, without control tokens but those that mark reasoning."""
        if self.marks:
            hidden = self.special - self.marks
            tokens = [token for token in tokens if token not in hidden]
        text = self.tokenizer.decode(
            tokens, skip_special_tokens=not self.marks, clean_up_tokenization_spaces=False
        )
        return str(text)

    def response(self, i: int, record: Sequence[Any] | None = None) -> dict[str, Any]:
        """The raw response to row i; its text ends before the first stop text."""
        row, choices = self.rows[i], self.choices[i]
        text = (choices and choices.text(self.tokens[i])) or self._text(self.tokens[i])
        cuts = [start for stop in row.decoding.stop if (start := text.find(stop)) >= 0]
        response: dict[str, Any] = {
            "text": text[: min(cuts)] if cuts else text,
            "finish_reason": self.reasons[i],
            "usage": {
                "prompt_tokens": len(row.tokens),
                "completion_tokens": len(self.tokens[i]),
            },
        }
        if record is not None:
            response["logprobs"] = [
                [self._token_text(token), logprob, [[self._token_text(t), p] for t, p in top]]
                for token, logprob, top in record[: len(self.tokens[i])]
            ]
        return response

    def _token_text(self, token: int) -> str:
        return str(self.tokenizer.decode([token], clean_up_tokenization_spaces=False))


def reasoning_tokens(tokenizer: Any) -> set[int]:
    """The control tokens of a vocabulary that mark reasoning: they must stay in an answer.

    Args:
        tokenizer: The model's tokenizer.
    """
    pairs = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    return {token for text, token in pairs if text in CONTROL_TOKENS}


def uniforms(key: str, steps: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The random numbers of a request: float64 in [0, 1) of shape (steps,).

    Example:
        >>> uniforms("0" * 31 + "1", 3).round(3).tolist()
        [0.304, 0.849, 0.156]
    """
    rng = np.random.Generator(np.random.Philox(key=int(key, 16)))
    return rng.random(steps)


def _inverse_cdf(mass: Tensor, total: Tensor, uniform: Tensor) -> Tensor:
    """The first index at which the cumulative mass exceeds uniform * total, row by row."""
    index = torch.searchsorted(mass, uniform[:, None] * total, right=True)
    return index.clamp_(max=mass.shape[1] - 1).squeeze(1)


def _column(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None]


def _indices(flags: Sequence[bool], device: torch.device) -> Tensor:
    return torch.tensor(
        [i for i, flag in enumerate(flags) if flag], dtype=torch.long, device=device
    )


def _longest(decoding: Decoding) -> int:
    return max(len(stop.encode("utf-8")) for stop in decoding.stop)
