r"""What chat models say before what they were asked for: "Sure! Here is the instruction:".

An affirmation alone is no preamble: "Sure, I can meet on Monday." is an answer. It takes the
announcement that something follows, up to a colon.
"""

from __future__ import annotations

import re
from typing import Final

from stages._llm.lists import listed_items, unquoted

_AFFIRMATION: Final = (
    r"(?:(?:sure(?: thing)?|certainly|of course|absolutely|definitely|okay|ok"
    r"|alright|gladly|no problem|got it|understood|great(?: question)?"
    r"|thank(?:s| you)[^\n.!]*)\b"
    r"|当然(?:可以)?|好的?|没问题|natürlich|gerne?|klar|selbstverständlich|bien sûr|d'accord"
    r"|claro(?: que sí)?|por supuesto|certo|certamente)[ \t]*[!.,，。！:：–—-]*"
)
_COURTESY: Final = (
    r"(?:(?:i(?:['’]d| would|['’]ll| will|['’]m| am)?|let me|we) [^\n.!?:：]{0,60}[.!]\s*)?"
)
_HERE: Final = (
    r"(?:here(?:['’]s| is| are| you go)|below (?:is|are)|this is|the following (?:is|are)"
    r"|(?:以下|下面|这|这里)(?:就)?是|hier (?:ist|sind)|voici|aquí (?:está|tienes)|ecco)"
)
_ANNOUNCED: Final = re.compile(
    rf"\W*{_AFFIRMATION}\s*{_COURTESY}{_HERE}(?![a-zäöü])[^\n.:：]{{0,160}}[:：][*_]*\s*",
    re.IGNORECASE,
)
_REPLY: Final = re.compile(
    r"\W*(?:here(?:['’]s| is)|below is) (?:the|a|an|my|your)(?: [\w-]+){0,4}? (?:answer|response)"
    r"(?: [\w-]+){0,8}[:：][*_]*\s*",
    re.IGNORECASE,
)
_ASKED_FOR: Final = re.compile(
    rf"""
    \W* (?: {_HERE.replace(" ", "[ ]")} | the(?=[ ][^\n:：]*[ ](?:is|would[ ]be|could[ ]be)[:：]) )
    (?:[ ][\w-]+){{0,4}}? [ ]
    (?: (?:instruction|prompt|task)s? (?:[ ][\w'’-]+){{0,8}}
      | (?:question|query) (?:[ ](?:is|would[ ]be|could[ ]be))?
      | (?:rewritten|revised|improved|modified|updated|evolved|new)[ ](?:[ ]?[\w'’-]+){{1,9}}
    )
    [:：][*_]*\s*
    | \W*(?:以下|下面|这)是[^\n:：。]{{0,30}}(?:指令|问题|任务|提示)[:：]\s*
    """,
    re.IGNORECASE | re.VERBOSE,
)
_AFFIRMED: Final = re.compile(rf"\W*{_AFFIRMATION}\s*", re.IGNORECASE)
_RULES: Final = re.compile(r"(?:[-*_]{3,}[ \t]*\n\s*)+")
_LABEL: Final = re.compile(
    r"""
    (?P<marks>[#>*_\ \t]*+)
    (?:(?:new|rewritten|revised|improved|modified|updated|evolved|generated|created|final)[ ])?
    (?:instruction|prompt|question|task|query|指令|问题|任务|提示) [ \t]*\d*
    (?: [*_]* [ \t]* [:：] [*_]* \s* | (?(marks)[*_]*) [ \t]* \n \s* )
    """,
    re.IGNORECASE | re.VERBOSE,
)
_BOLD: Final = re.compile(r"(\*\*|__)(?=\S)((?:(?!\1)[^\n])+)\1")


def without_preamble(text: str) -> str:
    r"""An answer without the announcement before it and the white space around it.

    Args:
        text: A completion.

    Returns:
        What was announced: nothing, where nothing follows.

    Example:
        >>> without_preamble("Sure! Here is the answer:\n\nRain is water.")
        'Rain is water.'
        >>> without_preamble("Sure, but only after the rain: then the roads are wet.")
        'Sure, but only after the rain: then the roads are wet.'
    """
    text = text.strip()
    match = _ANNOUNCED.match(text) or _REPLY.match(text)
    if match is None:
        return text
    rest = text[match.end() :]
    rule = _RULES.match(rest)
    return rest[rule.end() :] if rule else rest


def instruction_text(text: str) -> str | None:
    r"""The instruction in a completion that should be nothing else; None without one.

    Beside the preamble, a label ("**Instruction:**") and emphasis or quotation marks around
    the whole are left out.

    Args:
        text: A completion.

    Example:
        >>> instruction_text('Here is the instruction:\n\n"Name a river."')
        'Name a river.'
        >>> instruction_text("Sure!") is None
        True
    """
    rest = without_preamble(text)
    match = _ASKED_FOR.match(rest)
    rest = rest[match.end() :] if match else rest
    label = _LABEL.match(rest)
    if label and (label["marks"].strip() or re.search("[:：]", label[0])):
        rest = rest[label.end() :]
        opened = re.search(r"\*\*|__", label["marks"])
        if opened and label[0].count(opened[0]) == 1:
            rest = rest.replace(opened[0], "", 1)
    if _AFFIRMED.fullmatch(rest):
        return None
    bold = _BOLD.fullmatch(rest.strip())
    return unquoted(bold[2] if bold else rest.strip()).strip() or None


def requested_items(text: str, count: int) -> list[str]:
    """The items of a list of so many; where one was requested, a text without a list is it.

    Args:
        text: A completion.
        count: How many items were requested.

    Example:
        >>> requested_items("Here is the instruction: Name a river.", 1)
        ['Name a river.']
        >>> requested_items("Name a river.", 2)
        []
    """
    alone = instruction_text(text) if count == 1 else None
    return listed_items(text) or ([alone] if alone else [])
