"""Tokenizers and chat templates: how messages become the text that a model reads.

A model's own template is used, or the file that replaces it. A base model has none and
gets the one named "plain": the role in a line, the content below it, an empty line
between turns. A template belongs to the model or to the user and is run by transformers
in its sandbox; messages are only ever values in it. What a template refuses, and a text that
holds one of the tokenizer's control tokens, which would be read as what the template writes,
is `Unrenderable`: one conversation's fault, and not the end of a stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from pipeline.errors import UserError
from pipeline.models.base import PLAIN, LanguageModel, local_folder
from pipeline.models.identity import resolved_revision
from pipeline.models.local.literal_tokens import control_tokens

PLAIN_TEMPLATE: Final = (
    "{%- for m in messages -%}{{- m['role'] | capitalize + ':\n' -}}"
    "{%- if m['role'] == 'assistant' -%}{%- generation -%}{{- m['content'] -}}{%- endgeneration -%}"
    "{%- else -%}{{- m['content'] -}}{%- endif -%}{{- '\n\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- 'Assistant:\n' -}}{%- endif -%}"
)
"""The template named "plain"; `generation` marks the answers for training."""


_USERS_WORDS: Final = "\ufffcwords\ufffc"
"""Stands for what a user says; no text holds it."""

_MAX_STOPS: Final = 4
"""Texts that may end an answer: OpenAI's form takes no more."""


class Unrenderable(ValueError):
    """A conversation that a chat template cannot render, or renders changed."""


def chat_text(tokenizer: Any, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
    """Messages as the chat template renders them.

    Args:
        tokenizer: The model's tokenizer.
        messages: The messages as templates take them.
        options: Further arguments of `apply_chat_template`.

    Raises:
        Unrenderable: The template refuses them, or there is none.
    """
    from jinja2 import TemplateError

    try:
        text = str(tokenizer.apply_chat_template(list(messages), tokenize=False, **options))
        text.encode()  # a tokenizer takes no lone surrogates, which arguments may hold
        return text
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise Unrenderable(f"the chat template refuses the conversation: {error}") from error


def opened_user_turn(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> str:
    """Messages as the chat template renders them, up to where the next user's words begin.

    What a chat model writes there is what a user would say.

    Args:
        tokenizer: The model's tokenizer.
        messages: The turns before, as templates take them; none opens a conversation.

    Raises:
        Unrenderable: The template refuses them, or does not show a user's words.
    """
    return _around_user_turn(tokenizer, messages)[0]


@lru_cache(maxsize=16)
def user_turn_stops(tokenizer: Any) -> tuple[str, ...]:
    """The texts that end a user's words in the chat template, the most telling one first.

    They are the control tokens that the template writes behind a user's turn and before it, at
    most four, which is the most that servers take; without any behind it, the text that
    stands there.

    Args:
        tokenizer: The model's tokenizer.

    Raises:
        Unrenderable: The template does not show a user's words.
    """
    before, after = _around_user_turn(tokenizer, ())
    control = control_tokens(tokenizer)
    tokens: list[str] = []
    if control is not None:
        tokens = [match[0] for text in (after, before) for match in control.pattern.finditer(text)]
    ends_by_token = control is not None and control.pattern.match(after.lstrip())
    if after.strip() and not ends_by_token:
        tokens = [after.rstrip(), *tokens]
    return tuple(dict.fromkeys(tokens))[:_MAX_STOPS]


def _around_user_turn(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """What the template writes before and after a user's words, ready for an answer."""
    turns = [*messages, {"role": "user", "content": _USERS_WORDS}]
    before, words, after = chat_text(tokenizer, turns, add_generation_prompt=True).partition(
        _USERS_WORDS
    )
    if not words or _USERS_WORDS in after:
        raise Unrenderable("the chat template does not show where a user's words begin")
    return before, after


def plain_prompt(messages: Sequence[tuple[str, str]]) -> str:
    r"""Messages as PLAIN_TEMPLATE renders them, ready for an answer.

    Example:
        >>> plain_prompt((("user", "Hello"),))
        'User:\nHello\n\nAssistant:\n'
    """
    turns = [f"{role.capitalize()}:\n{content}\n\n" for role, content in messages]
    return "".join([*turns, "Assistant:\n"])


def renders_here(model: LanguageModel) -> bool:
    """Whether prompts are rendered and tokenized in this process.

    False for a model that is known only by the name that a server gives it.
    """
    has_tokenizer = model.tokenizer is not None or local_folder(model.model) is not None
    return has_tokenizer or model.base_url is None


def source(model: LanguageModel) -> dict[str, Any]:
    """The arguments of `from_pretrained`: a folder, or a name on the hub with its commit."""
    if local_folder(model.model) is not None:
        return {"pretrained_model_name_or_path": model.model}
    revision = resolved_revision(model)
    return {"pretrained_model_name_or_path": model.model, "revision": revision}


def load_tokenizer(model: LanguageModel) -> Any:
    """Load a model's tokenizer and set the chat template that is to be used.

    Raises:
        UserError: The folder or the name has no tokenizer.
    """
    from transformers import AutoTokenizer

    where = model.tokenizer or model.model
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            **({"pretrained_model_name_or_path": where} if model.tokenizer else source(model))
        )
    except (OSError, ValueError) as error:
        raise UserError(
            "the language model cannot be loaded",
            where=where,
            why=f"its tokenizer: {str(error).strip().splitlines()[0]}",
        ) from error
    if model.chat_template not in (None, PLAIN):
        tokenizer.chat_template = Path(str(model.chat_template)).read_text("utf-8")
    elif model.chat_template == PLAIN or tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    return tokenizer


def context_tokens(model: LanguageModel, tokenizer: Any) -> int | None:
    """The tokens that the model can read, according to its configuration and its tokenizer."""
    from transformers import AutoConfig

    where = {"pretrained_model_name_or_path": model.tokenizer} if model.tokenizer else source(model)
    try:
        config = AutoConfig.from_pretrained(**where).get_text_config()
    except (OSError, ValueError):
        config = None
    return smallest(getattr(config, "max_position_embeddings", None), tokenizer)


def smallest(positions: int | None, tokenizer: Any) -> int | None:
    """The smaller of the model's and the tokenizer's limits; None without either."""
    limits = [limit for limit in (positions, tokenizer.model_max_length) if limit]
    return int(min(limits)) if limits else None
