"""A conversation as a chat template renders it, and where in the text the assistant's words are.

A template that cannot show a row makes the row `Unrenderable`, never a poorer text: one that
refuses the roles, that leaves out a turn, the tools or a call, or changes an answer. Reasoning
is shown as far as the template shows it: those of reasoning models leave out the reasoning of
earlier turns. Control tokens that a text mentions are covered in the rendered text, and
tokenized as text (`pipeline.models.local.literal_tokens`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pipeline.models.local.chat_template import Unrenderable, chat_text
from pipeline.models.local.literal_tokens import cover
from schemas.turns import template_messages, template_tools
from stages._llm.answer_places import RenderedAnswer, Span, answer_places, prompt_places


@dataclass(frozen=True)
class RenderedText:
    """A conversation as text.

    Attributes:
        text: What the chat template gives; control tokens of the conversation's own texts are
            covered. `literal_tokens.tokenize` reads it.
        answers: The assistant's turns in it.
    """

    text: str
    answers: tuple[RenderedAnswer, ...]

    def hidden_reasoning(self, messages: Sequence[Mapping[str, Any]]) -> int:
        """The characters of reasoning that the chat template leaves out of the conversation.

        Args:
            messages: The turns that were rendered.
        """
        shown = {answer.turn for answer in self.answers if answer.reasoning}
        thoughts = enumerate(turn.get("reasoning") or "" for turn in messages)
        return sum(len(text) for at, text in thoughts if text.strip() and at not in shown)


def render(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    tools: str | None = None,
    template: str | None = None,
) -> RenderedText:
    """Render a conversation and say where its answers are.

    Args:
        tokenizer: The model's tokenizer.
        messages: The turns.
        tools: The definitions of the tools, as JSON text.
        template: The text of a template in place of the tokenizer's own.

    Raises:
        Unrenderable: The template refuses the conversation, leaves something of it out or
            changes an answer.
    """
    messages = cover(tokenizer, messages)
    rendering = partial(rendered_text, tokenizer, tools=tools, template=template)
    text = rendering(messages)
    if tools:
        without = rendered_text(tokenizer, messages, None, template)
        if text == without or not all(name in text for name in _names(tools)):
            raise Unrenderable("the chat template leaves out the tools")
    return RenderedText(text, answer_places(rendering, tokenizer, text, messages))


def prompt_spans(
    tokenizer: Any,
    text: str,
    messages: Sequence[Mapping[str, Any]],
    tools: str | None = None,
    template: str | None = None,
) -> tuple[Span, ...]:
    """Where what others than the assistant say stands in a conversation that `render` rendered.

    Args:
        tokenizer: The model's tokenizer.
        text: The rendered conversation.
        messages: The turns.
        tools: The definitions of the tools, as JSON text.
        template: The text of a template in place of the tokenizer's own.

    Raises:
        Unrenderable: The template changes what is said.
    """
    rendering = partial(rendered_text, tokenizer, tools=tools, template=template)
    return prompt_places(rendering, text, cover(tokenizer, messages))


def rendered_text(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    tools: str | None = None,
    template: str | None = None,
    **options: bool,
) -> str:
    """The conversation as the chat template renders it, with control tokens in texts covered.

    Args:
        tokenizer: The model's tokenizer.
        messages: The turns.
        tools: The definitions of the tools, as JSON text.
        template: The text of a template in place of the tokenizer's own.
        options: Further arguments of `apply_chat_template`.

    Raises:
        Unrenderable: The template refuses it, or there is none.
    """
    own = template or getattr(tokenizer, "chat_template", None)
    turns = cover(tokenizer, template_messages(messages, own if isinstance(own, str) else ""))
    defined = cover(tokenizer, template_tools(tools))
    return chat_text(tokenizer, turns, tools=defined, chat_template=template, **options)


def _names(tools: str) -> list[str]:
    names = []
    for tool in template_tools(tools) or ():
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        names += [name] if isinstance(name, str) else []
    return names
