"""Keys, tokens and passwords in texts, by two detectors that miss different ones.

`betterleaks` (a binding of the Go scanner; offline) searches every text. `detect-secrets`
searches those that one union of its expressions may match, which leaves few: its loop over
plugins takes a thousand times as long. Neither asks the network: verification is off.

Both were made for files of code, and what helps there would hide keys here: a comment such as
`gitleaks:allow` in a row, a NUL after which C sees nothing, and the filters of detect-secrets
by line (`Client("AKIA...")` is an indirect reference to it). All three are taken out.

A *key* has the form of its issuer's, or is random behind a word such as `api_key`. A *password*
is what betterleaks takes for one by the word before it, and in lessons about code it mostly is
`password`: the two are kinds of their own. Entropies and keywords of detect-secrets are not
taken over, since they convict subresource hashes, alphabets and the same lessons.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, Final, NamedTuple

import polars as pl

_UNUSED: Final = frozenset({
    "Base64HighEntropyString", "HexHighEntropyString", "KeywordDetector", "IPPublicDetector",
    "BasicAuthDetector", "PrivateKeyDetector",
})  # fmt: skip
"""Plugins of detect-secrets that betterleaks, `PRIVATE_KEY` or `personal` do better."""

_UNANCHORED: Final = frozenset({"Twilio API Key", "Mailchimp Access Key"})
"""Types whose expression has no beginning of its own: they must not stand in a longer word."""

PRIVATE_KEY: Final = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?=(?:[^-]|-(?!----)){64})"
    r"(?:[^-]|-(?!----))*(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----)?"
)
"""A private key, cut off or not; not the bare header that a lesson shows."""

_PASSWORD: Final = "generic-password"
_USER: Final = "generic-username"
"""A rule for the name beside a password, which is no secret."""
_ALLOWED: Final = re.compile(r"(?i)(leaks):(allow)")
_MARK: Final = re.compile(r"\[[a-z0-9-]+\]")
"""What `rewrite.redact` leaves in the place of a secret."""


class Secret(NamedTuple):
    """A secret in a text.

    Attributes:
        text: The position of the text.
        kind: key or password.
        name: Whose key it is, such as `github-pat`.
        value: The secret itself, which no evidence may hold.
    """

    text: int
    kind: str
    name: str
    value: str


def find_secrets(texts: pl.Series) -> Iterator[Secret]:
    """The keys and passwords in each text, those that both detectors find once.

    Args:
        texts: Texts without nulls.

    Example:
        >>> texts = pl.Series(["Use ghp_" + "a1B2c3D4e5F6" * 3 + ", please.", "Sing."])
        >>> secrets = find_secrets(texts)
        >>> [(secret.text, secret.kind, secret.name) for secret in secrets]
        [(0, 'key', 'github-pat')]
    """
    prepared = texts.str.replace_all("\0", " ", literal=True)
    suspicious = frozenset(prepared.str.contains(_prefilter()).arg_true())
    # A loop over texts: a scan of each by itself takes 10 microseconds, and what stands in one
    # row never changes what is found in another.
    for position, text in enumerate(prepared):
        secrets = [*_by_betterleaks(position, text)]
        if position in suspicious:
            secrets += _by_detect_secrets(position, text)
        yield from _distinct(secrets)


def _distinct(secrets: list[Secret]) -> Iterator[Secret]:
    """Each secret once: what is a part of one before it is not another."""
    kept: list[Secret] = []
    for secret in secrets:
        if secret.value and not any(secret.value in other.value for other in kept):
            kept.append(secret)
    yield from kept


def _by_betterleaks(position: int, text: str) -> Iterator[Secret]:
    import betterleaks

    for finding in betterleaks.scan_string(_ALLOWED.sub(r"\1.\2", text)):
        yield from _known(position, finding.rule_id, finding.match.value)
        for components in finding.component_sets:
            for part in components["components"]:
                yield from _known(position, part["rule_id"], part["match"]["value"])


def _known(position: int, rule: str, value: str) -> Iterator[Secret]:
    if rule != _USER and not _MARK.fullmatch(value.strip()):
        yield Secret(position, "password" if rule == _PASSWORD else "key", rule, value)


def _by_detect_secrets(position: int, text: str) -> Iterator[Secret]:
    from detect_secrets.filters import heuristic

    for match in PRIVATE_KEY.finditer(text):
        yield Secret(position, "key", "private-key", match[0])
    for plugin in _plugins():
        name = plugin.secret_type.lower().replace(" ", "-")
        for value in plugin.analyze_string(text):
            wrong = heuristic.is_sequential_string(value) or heuristic.is_templated_secret(value)
            if not wrong and _stands_alone(plugin.secret_type, value, text):
                yield Secret(position, "key", name, value)


def _stands_alone(secret_type: str, value: str, text: str) -> bool:
    """Whether a match is no part of a word, and no word itself."""
    if secret_type in _UNANCHORED:
        return re.search(rf"(?<![A-Za-z0-9]){re.escape(value)}(?![A-Za-z0-9])", text) is not None
    if secret_type == "Artifactory Credentials":  # any word in capitals that begins with APA
        return any(map(str.isdigit, value)) and any(map(str.islower, value))
    return True


@cache
def _plugins() -> tuple[Any, ...]:
    """The detectors of detect-secrets that are used, in the order of their names."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    classes: Iterable[Any] = get_mapping_from_secret_type_to_class().values()
    used = [kind for kind in classes if kind.__name__ not in _UNUSED]
    return tuple(kind() for kind in sorted(used, key=lambda kind: kind.__name__))


@cache
def _prefilter() -> str:
    """One expression that matches wherever one of the detectors' does, for polars.

    Assertions, which polars' engine lacks, are left out: a pattern without them matches
    wherever the pattern does.
    """
    patterns = [pattern for plugin in _plugins() for pattern in plugin.denylist]
    parts = ["-----BEGIN [A-Z0-9 ]*PRIVATE KEY"]
    for pattern in patterns:
        flags = "".join(f for f, on in (("i", re.I), ("x", re.X)) if pattern.flags & on)
        bare = re.sub(r"\(\?<?[=!][^()]*\)", "", pattern.pattern)
        parts.append(f"(?{flags}:{bare})" if flags else f"(?:{bare})")
    return "|".join(parts)
