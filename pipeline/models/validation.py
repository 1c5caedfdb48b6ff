"""What the fields of a language model must be together, checked when a recipe is read."""

from __future__ import annotations

import re
from typing import Final

from pipeline.models.base import PLAIN, LanguageModel, local_folder

SECRET_OPTIONS: Final = frozenset({"hf_token", "api_key"})
"""Options of vLLM that hold a key, which would reach the journal and the manifest."""
_VARIABLE_NAME: Final = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
"""Environment variables that may hold a key: few keys look like that, so none is printed."""


def mistakes(model: LanguageModel) -> list[str]:
    """What is wrong with a model's fields, given the others.

    No message shows a value that may be a key.

    Example:
        >>> mistakes(LanguageModel("m", "openai"))
        ['engine openai must have either base_url or serve: true, got neither']
    """
    return [
        *_server_mistakes(model),
        *_key_mistakes(model),
        *_other_mistakes(model),
        *_reasoning_mistakes(model),
    ]


def _server_mistakes(model: LanguageModel) -> list[str]:
    fields = {"base_url": model.base_url is not None, "serve: true": model.serve}
    names = " and ".join(name for name, is_set in fields.items() if is_set)
    if model.engine == "openai":
        wrong = sum(fields.values()) != 1
        message = "engine openai must have either base_url or serve: true, got "
        return [message + (names or "neither")] if wrong else []
    if names and model.engine != "replay":
        return [f"base_url and serve must be left out for the engine {model.engine}, got {names}"]
    return []


def _key_mistakes(model: LanguageModel) -> list[str]:
    messages = []
    if model.api_key_env is not None and not _VARIABLE_NAME.fullmatch(model.api_key_env):
        messages.append(
            "api_key_env must be the NAME of an environment variable (A-Z, 0-9 and _), "
            "got another text, which is not shown since it may be a key"
        )
    if marks := [mark for mark in "@?#" if mark in (model.base_url or "")]:
        messages.append(
            "base_url must be an address without a user name, a password or a query, got one "
            f"with {marks[0]!r}; a key comes from the environment, by api_key_env"
        )
    if names := sorted(SECRET_OPTIONS & set(model.engine_options)):
        messages.append(
            f"engine_options must hold no key, got {', '.join(names)}; "
            "it comes from the environment (HF_TOKEN)"
        )
    return messages


def _other_mistakes(model: LanguageModel) -> list[str]:
    messages = []
    if model.engine == "transformers" and model.engine_options:
        names = ", ".join(sorted(model.engine_options))
        messages.append(
            f"engine_options must be empty for the engine transformers, got {names}; they are "
            "arguments of vLLM"
        )
    has_tokenizer = model.tokenizer is not None or local_folder(model.model) is not None
    replaced = model.chat_template not in (None, PLAIN)
    if model.base_url is not None and replaced and not has_tokenizer:
        messages.append(
            "chat_template must be left out or 'plain' for a model that its server renders, "
            f"got {model.chat_template}; a file needs a tokenizer: give tokenizer: FOLDER"
        )
    if model.price is not None:
        messages.append("price must be given in the recipe's `prices`, got it in the model")
    for name, value in vars(model.limits).items():
        if value is not None and value <= 0:
            messages.append(f"limits.{name} must be above 0, got {value}")
    return messages


def _reasoning_mistakes(model: LanguageModel) -> list[str]:
    reasoning, messages = model.reasoning, []
    for mark in reasoning.marks:
        if not all(text.strip() for text in mark) or mark[0] == mark[1]:
            messages.append(
                f"reasoning.marks must be pairs of two different texts, got {list(mark)}"
            )
    if reasoning.effort == "":
        messages.append("reasoning.effort must be left out or a word such as low, got ''")
    numbers = {"reasoning.max_tokens": reasoning.max_tokens, "resample": model.resample}
    for name, value in numbers.items():
        if value < 0:
            messages.append(f"{name} must be at least 0, got {value}")
    return messages
