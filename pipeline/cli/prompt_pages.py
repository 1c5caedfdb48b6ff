"""Prompts as the command line prints them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Final

from pipeline.execution.shown_prompts import ShownPrompt
from pipeline.terminal import visible, visible_line

INDENT: Final = "    "


def prompts_page(prompts: Sequence[ShownPrompt]) -> str:
    """The first prompt of each stage; what a row holds cannot pass for a line of the page.

    Args:
        prompts: What `shown_prompts` returned.
    """
    if not prompts:
        return "no stage of these asks a language model"
    return "\n\n".join(map(_block, prompts))


def _block(prompt: ShownPrompt) -> str:
    head = f"{prompt.name} ({prompt.uses})"
    if prompt.why:
        return f"{head}: no prompt can be shown\n  because: {visible_line(prompt.why)}"
    lines = [f"{head} asks {visible_line(prompt.model)}"]
    if prompt.waits_for:
        names = ", ".join(prompt.waits_for)
        lines.append(f"  with placeholders in brackets: {names} must run before there are rows")
    for role, text in prompt.turns:
        shown = visible(text)
        lines += [
            f"  {role or 'text to be continued'}:",
            textwrap.indent(shown, INDENT, lambda _: True),
        ]
    return "\n".join(lines)
