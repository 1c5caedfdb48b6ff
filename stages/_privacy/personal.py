"""Personal data in texts by patterns with checks: what can be verified without a model.

- e-mail addresses, but those of domains that are reserved for examples (RFC 2606);
- phone numbers that Google's library takes for valid ones: international, or in the groups of
  one of the given countries; a bare run of digits is none, nor are 555-0100 to 555-0199;
- card numbers of an issuer's length and prefix with a right check digit (Luhn);
- IBANs with right check digits and the form of their country;
- public IP addresses. Of IPv4 those of at least 7 digits: shorter ones are mostly versions and
  sections, and well-known servers.

Names of persons need a model, and are not claimed.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal, NamedTuple

import polars as pl

Personal = Literal["email", "phone", "card", "iban", "ip"]


class PersonalDatum(NamedTuple):
    """A personal datum in a text.

    Attributes:
        text: The position of the text.
        kind: What it is.
        value: The datum itself, which no evidence may hold.
    """

    text: int
    kind: Personal
    value: str


EMAIL: Final = re.compile(
    r"(?<![\w.+%-])[A-Za-z0-9](?:[\w.%+-]{0,62}[\w+-])?"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}(?![\w-])"
)
_RESERVED: Final = re.compile(
    r"(?i)(?:^|\.)(?:example\.(?:com|net|org|edu)|example|test|invalid|localhost|local)$"
)
_FICTIONAL: Final = re.compile(r"555\W?01\d\d$")
CARD: Final = re.compile(r"(?<![\w.,-])\d(?:[ -]?\d){12,18}(?![\w-])")
_ISSUERS: Final = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}"
    r"|3[47]\d{13}|6(?:011|4[4-9]\d|5\d\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}"
)
"""Visa, Mastercard (twice), American Express, Discover, JCB, Diners Club."""
IBAN: Final = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}(?!\w)")
IPV4: Final = re.compile(r"(?<![\w.:/-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
IPV6: Final = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){3,7}[0-9A-Fa-f]{0,4}(?![\w:.])")
_VERSION: Final = re.compile(r"(?i)(?:version|section|chapter|release|clause|\bv)\W{0,3}$")

_PREFILTERS: Final[dict[Personal, str]] = {
    "email": r"@[A-Za-z0-9-]",
    "phone": r"\d(?:[\s().\-/\x{2010}-\x{2015}\x{a0}]{0,4}\d){6}",
    "card": r"\d(?:[ -]?\d){12}",
    "iban": r"[A-Z]{2}\d{2} ?[A-Z0-9]",
    "ip": r"(?:\d{1,3}\.){3}\d|(?:[0-9A-Fa-f]{0,4}:){3}",
}
"""Expressions for polars that match wherever the kind may be; most texts match none."""


def find_personal(
    texts: pl.Series, kinds: Sequence[Personal], regions: Sequence[str]
) -> Iterator[PersonalDatum]:
    """The personal data of some kinds in each text, each once.

    Args:
        texts: Texts without nulls.
        kinds: Which kinds.
        regions: Countries (ISO 3166) whose national way to write phone numbers counts.

    Example:
        >>> texts = pl.Series(["Write to ada@analytical.org or +44 20 7946 0958.", "10.0.0.1"])
        >>> data = find_personal(texts, ["email", "phone", "ip"], [])
        >>> [(datum.kind, datum.value) for datum in data]
        [('email', 'ada@analytical.org'), ('phone', '+44 20 7946 0958')]
    """
    longer: dict[int, list[str]] = {}
    for kind in ("iban", "card", "email", "phone", "ip"):
        if kind not in kinds:
            continue
        for position in texts.str.contains(_PREFILTERS[kind]).arg_true():
            values = _FINDERS[kind](texts[position], regions)
            known = longer.setdefault(position, [])
            for value in dict.fromkeys(values):
                # The digits of a card are no phone number too.
                if not any(value in other for other in known):
                    known.append(value)
                    yield PersonalDatum(position, kind, value)


def _emails(text: str, regions: Sequence[str]) -> Iterator[str]:
    for match in EMAIL.finditer(text):
        value = match[0]
        is_reserved = _RESERVED.search(value.partition("@")[2])
        # In `https://user:password@host` it is a password.
        in_url = re.search(r"://\S*$", text[max(match.start() - 200, 0) : match.start()])
        if not (is_reserved or in_url or ".." in value):
            yield value


def _phones(text: str, regions: Sequence[str]) -> Iterator[str]:
    from phonenumbers import Leniency, PhoneNumberMatcher

    matchers = [PhoneNumberMatcher(text, None, Leniency.VALID)]
    # Without a + digits may be anything else: only groups as the country writes them count.
    matchers += [PhoneNumberMatcher(text, r, Leniency.STRICT_GROUPING) for r in regions]
    for match in (match for matcher in matchers for match in matcher):
        raw = match.raw_string
        value = raw[1:] if raw.startswith("(") and ")" not in raw else raw
        before = text[max(match.start - 1, 0) : match.start]
        is_other = re.fullmatch(r"[\w.,/=$€£%-]", before) or _FICTIONAL.search(value)
        if re.search(r"\D", value) and not is_other:
            yield value


def _cards(text: str, regions: Sequence[str]) -> Iterator[str]:
    from stdnum import luhn

    for match in CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if _ISSUERS.fullmatch(digits) and luhn.is_valid(digits) and len(set(digits)) > 1:
            yield match[0]


def _ibans(text: str, regions: Sequence[str]) -> Iterator[str]:
    from stdnum import iban

    for match in IBAN.finditer(text):
        # Capitals may follow behind a space: the longest beginning that is right is meant.
        words = match[0].split(" ")
        for end in range(len(words), 0, -1):
            value = " ".join(words[:end])
            if iban.is_valid(value):
                yield value
                break


def _addresses(text: str, regions: Sequence[str]) -> Iterator[str]:
    for match in (*IPV4.finditer(text), *IPV6.finditer(text)):
        value = match[0]
        is_short = ":" not in value and sum(map(str.isdigit, value)) < 7
        if is_short or _VERSION.search(text[max(match.start() - 12, 0) : match.start()]):
            continue
        try:
            address = ipaddress.ip_address(value)
        except ValueError:  # 300.1.1.1, or a time such as 10:30:00
            continue
        if address.is_global and not address.is_multicast:
            yield value


_FINDERS: Final[dict[Personal, Callable[[str, Sequence[str]], Iterator[str]]]] = {
    "email": _emails,
    "phone": _phones,
    "card": _cards,
    "iban": _ibans,
    "ip": _addresses,
}
