"""The user's turn of a chat template, for models that are to write what a user would."""

from __future__ import annotations

from typing import Final

from pipeline.models.base import Engine

_PLACEHOLDER: Final = "<the user's words>"


def user_turn(engine: Engine) -> tuple[str, str]:
    """What the chat template puts before and after the text of the first user turn.

    Args:
        engine: The model; its tokenizer has the template.

    Returns:
        (before, after). A prompt that ends with the first part is continued by a user's words.
    """
    text: str = engine.tokenizer.apply_chat_template(
        [{"role": "user", "content": _PLACEHOLDER}], tokenize=False, add_generation_prompt=True
    )
    before, _, after = text.partition(_PLACEHOLDER)
    # The tokenizer puts the first token before a text prompt; it must not come twice.
    return before.removeprefix(engine.tokenizer.bos_token or ""), after.strip()
