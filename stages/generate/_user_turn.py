"""An open user's turn: the model writes there what a user would say."""

from __future__ import annotations

from pipeline.errors import OptionError
from pipeline.models.base import Engine, LanguageModel
from pipeline.models.local.chat_template import opened_user_turn, renders_here, user_turn_stops


def check_template(model: LanguageModel | None, option: str = "model") -> None:
    """Check that the chat template of a model, and of its fallback, is at hand.

    Args:
        model: The model; None where none is named.
        option: The option that names it.

    Raises:
        OptionError: Only its server has it.
    """
    for each in (model, model.fallback if model else None):
        if each is not None and not renders_here(each):
            raise OptionError(
                option,
                f"must be one whose chat template is at hand, got {each.model}, which its server "
                "renders",
                why="the prompt ends where a user's words begin, and a server of chat completions "
                "takes whole turns alone",
                hint="tokenizer: FOLDER (or a name on the hub) in the model, for a server that has "
                "/v1/completions as vllm serve does; or engine: vllm or transformers",
            )


def opening_and_stops(engine: Engine) -> tuple[str, tuple[str, ...]]:
    """The text before a user's first words, for prompts that begin them, and what ends them.

    A turn that is left open without any words of its own needs neither: `Request.role`.

    Args:
        engine: The model; its tokenizer has the template.

    Raises:
        Unrenderable: The template does not show a user's words.
    """
    opening = opened_user_turn(engine.tokenizer, ())
    # The tokenizer puts the first token before a text prompt; it must not come twice.
    without_bos = opening.removeprefix(engine.tokenizer.bos_token or "")
    return without_bos, user_turn_stops(engine.tokenizer)


def users_words(text: str) -> str | None:
    """What was written in a user's turn; None for a blank one."""
    return text.strip() or None
