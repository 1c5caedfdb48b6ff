"""What the fields of a language model must be together, checked when a recipe is read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pipeline.models.api import PLAIN_API
from pipeline.models.base import PLAIN, LanguageModel, local_folder

SECRET_OPTIONS: Final = frozenset({"hf_token", "api_key"})
"""Options of vLLM that hold a key, which would reach the journal and the manifest."""
_SECRET_FIELDS: Final = re.compile(
    r"(?:api|access|subscription|x)?[-_]?key|authorization|(?:\w+[-_])?(?:secret|password)"
    r"|(?:access|auth|bearer|api)[-_]?token",
    re.IGNORECASE,
)
"""Names of fields and headers that hold a key."""
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_OWN_FIELDS: Final = frozenset({
    "model", "messages", "prompt", "contents", "system", "systemInstruction", "stream", "n",
})  # fmt: skip
"""Fields of a body that are the request itself: another value would answer another one."""
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
        *_api_mistakes(model),
        *_batch_mistakes(model),
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
    variables = {f"api.headers.{name}": value for name, value in model.api.headers.items()}
    if model.api_key_env is not None:
        variables["api_key_env"] = model.api_key_env
    for option, value in variables.items():
        if not _VARIABLE_NAME.fullmatch(value):
            messages.append(
                f"{option} must be the NAME of an environment variable (A-Z, 0-9 and _), "
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


def _api_mistakes(model: LanguageModel) -> list[str]:
    api, messages = model.api, []
    if api != PLAIN_API and model.engine not in ("openai", "replay"):
        messages.append(f"api must be left out for the engine {model.engine}, got one")
    if names := [name for name in api.headers if not _HEADER.fullmatch(name)]:
        messages.append(f"api.headers must be named as HTTP allows it, got {names[0]!r}")
    if names := sorted({*api.extra_body} & _OWN_FIELDS):
        messages.append(
            f"api.extra_body must leave the request as it is, got {', '.join(names)}; "
            "streaming is api: {stream: true}"
        )
    if names := sorted(name for name in _field_names(api.extra_body) if is_secret(name)):
        messages.append(
            f"api.extra_body must hold no key, got {', '.join(names)}; a key comes from the "
            "environment, by api_key_env or api.headers"
        )
    native = api.provider in ("anthropic", "gemini")
    return [*messages, *_native_mistakes(model), *_spelling_mistakes(model, native)]


def _native_mistakes(model: LanguageModel) -> list[str]:
    """What only OpenAI's form has, given to another provider."""
    api, provider = model.api, model.api.provider
    messages = []
    if provider != "openai" and model.serve:
        messages.append(f"api.provider must be openai with serve: true, got {provider}")
    if api.headers and model.serve:
        messages.append("api.headers must be left out with serve: true: the server is our own")
    if provider == "gemini" and api.version is not None:
        messages.append("api.version must be left out for gemini: it is part of base_url")
    if provider not in ("anthropic", "gemini"):
        return messages
    options = {
        "api.max_tokens_field": api.max_tokens_field,
        "api.structured_output": api.structured_output,
        "api.chat_template_kwargs": api.chat_template_kwargs or None,
        "tokenizer": model.tokenizer,
        "chat_template": model.chat_template,
    }
    return messages + [
        f"{option} must be left out for {provider}, which has nothing of the kind, got {value}"
        for option, value in options.items()
        if value is not None
    ]


def _spelling_mistakes(model: LanguageModel, native: bool) -> list[str]:
    api, messages = model.api, []
    if api.structured_output is not None and not model.guided:
        messages.append("api.structured_output must be left out with guided: false")
    rendered = model.tokenizer is not None or local_folder(model.model) is not None
    if api.chat_template_kwargs and not native and (rendered or model.chat_template):
        messages.append(
            "api.chat_template_kwargs must be left out where prompts are rendered here: the "
            "server's template is not used"
        )
    return messages


def _batch_mistakes(model: LanguageModel) -> list[str]:
    options, messages = model.batching, []
    if options is None:
        return []
    if model.engine not in ("openai", "replay") or model.serve:
        whose = "serve: true" if model.serve else f"the engine {model.engine}"
        messages.append(f"batch must be left out for {whose}: only a provider has batches")
    if model.api.provider in ("gemini", "azure"):
        messages.append(
            f"batch must be left out for {model.api.provider}; openai and anthropic have one here"
        )
    if model.api.stream:
        messages.append("batch must be left out with api: {stream: true}: a batch does not stream")
    if not options.poll > 0:
        messages.append(f"batch.poll must be above 0, got {options.poll:g}")
    if not options.completion_window.strip():
        messages.append("batch.completion_window must be a time such as 24h, got ''")
    return messages


def _field_names(value: Any) -> Iterator[str]:
    """The names of all fields in a JSON value."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield str(name)
            yield from _field_names(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _field_names(item)


def is_secret(name: str) -> bool:
    """Whether a field of this name holds a key.

    Example:
        >>> is_secret("api_key"), is_secret("Authorization"), is_secret("prompt_cache_key")
        (True, True, False)
    """
    return _SECRET_FIELDS.fullmatch(name) is not None
