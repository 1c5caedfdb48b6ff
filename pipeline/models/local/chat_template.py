"""Tokenizers and chat templates: how messages become the text that a model reads.

A model's own template is used, or the file that replaces it. A base model has none
and gets the one named "plain": the role on a line, the text below it, a blank line
between turns. A template is the model's or the user's and is run by transformers in
its sandbox; messages are only ever values in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pipeline.errors import UserError
from pipeline.models.base import PLAIN, LanguageModel, local_folder
from pipeline.models.identity import resolved_revision

PLAIN_TEMPLATE: Final = (
    "{%- for m in messages -%}{{- m['role'] | capitalize + ':\n' -}}"
    "{%- if m['role'] == 'assistant' -%}{%- generation -%}{{- m['content'] -}}{%- endgeneration -%}"
    "{%- else -%}{{- m['content'] -}}{%- endif -%}{{- '\n\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- 'Assistant:\n' -}}{%- endif -%}"
)
"""The template named "plain", with the answers marked for training."""


def plain_prompt(messages: Sequence[tuple[str, str]]) -> str:
    """What PLAIN_TEMPLATE makes of messages that wait for an answer."""
    turns = [f"{role.capitalize()}:\n{content}\n\n" for role, content in messages]
    return "".join([*turns, "Assistant:\n"])


def renders_here(model: LanguageModel) -> bool:
    """Whether prompts are rendered and tokenized on this side.

    Not so for a model that is known only by the name that a server gives it.
    """
    given = model.tokenizer is not None or local_folder(model.model) is not None
    return given or model.base_url is None


def source(model: LanguageModel) -> dict[str, Any]:
    """Where transformers finds the weights: a folder, or a hub name with its commit."""
    if local_folder(model.model) is not None:
        return {"pretrained_model_name_or_path": model.model}
    revision = resolved_revision(model)
    return {"pretrained_model_name_or_path": model.model, "revision": revision}


def load_tokenizer(model: LanguageModel) -> Any:
    """The tokenizer with the chat template that is to be used.

    Raises UserError for a folder or name that holds none.
    """
    from transformers import AutoTokenizer

    where = model.tokenizer or model.model
    try:
        found: Any = AutoTokenizer.from_pretrained(
            **({"pretrained_model_name_or_path": where} if model.tokenizer else source(model))
        )
    except (OSError, ValueError) as error:
        raise UserError(
            "the language model cannot be loaded",
            where=where,
            why=f"its tokenizer: {str(error).strip().splitlines()[0]}",
        ) from error
    if model.chat_template not in (None, PLAIN):
        found.chat_template = Path(str(model.chat_template)).read_text("utf-8")
    elif model.chat_template == PLAIN or found.chat_template is None:
        found.chat_template = PLAIN_TEMPLATE
    return found


def context_tokens(model: LanguageModel, tokenizer: Any) -> int | None:
    """The tokens that the model can read, by its configuration and its tokenizer."""
    from transformers import AutoConfig

    where = {"pretrained_model_name_or_path": model.tokenizer} if model.tokenizer else source(model)
    try:
        config = AutoConfig.from_pretrained(**where).get_text_config()
    except (OSError, ValueError):
        config = None
    return smallest(getattr(config, "max_position_embeddings", None), tokenizer)


def smallest(positions: int | None, tokenizer: Any) -> int | None:
    """The smaller of the model's and the tokenizer's limits, of those there are."""
    limits = [limit for limit in (positions, tokenizer.model_max_length) if limit]
    return int(min(limits)) if limits else None
