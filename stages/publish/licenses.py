"""Licenses of rows: what they demand, which go together, and which one the whole then has.

A license is an SPDX expression, or a text as sources write it (`CC BY-NC 4.0`, `MIT License`,
the hub's `cc-by-sa-3.0`), which is read as the SPDX id that it means. What is neither is *not
known*: nothing is concluded from it. `A OR B` lets the publisher choose; `A AND B`, and the
origins of one row, must all be met.

Terms of a part are carried to the whole:

- non-commercial (NC): so is the whole;
- share-alike: the whole has that license (a later version of the same one where both occur).
  Two different ones, or one beside a term that it forbids to add (NC), have no whole;
- no derivatives (ND): a curated set is one, so there is no whole.

This is bookkeeping over stated licenses, and no legal advice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, islice, product
from typing import Final

UNKNOWN: Final = "unknown"
NO_COMMERCE: Final = "no commercial use"
SHARE: Final = "share what is made of it under the same license"

_UNSTATED: Final = frozenset({"", "unknown", "none", "null", "other", "n/a", "no license"})

PUBLIC_DOMAIN: Final = "LicenseRef-Public-Domain"

_NAMES: Final = {
    "apache": "Apache-2.0", "apache 2": "Apache-2.0", "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0", "apache license version 2.0": "Apache-2.0",
    "mit license": "MIT", "the mit license": "MIT", "bsd 2 clause": "BSD-2-Clause",
    "bsd 3 clause": "BSD-3-Clause", "new bsd": "BSD-3-Clause", "cc0": "CC0-1.0",
    "cc 0": "CC0-1.0", "cc0 1.0": "CC0-1.0", "public domain": PUBLIC_DOMAIN, "odc by": "ODC-By-1.0",
    "odc by 1.0": "ODC-By-1.0", "odbl": "ODbL-1.0", "odbl 1.0": "ODbL-1.0", "pddl": "PDDL-1.0",
    "gpl 2.0": "GPL-2.0-only", "gpl 3.0": "GPL-3.0-only", "gplv2": "GPL-2.0-only",
    "gplv3": "GPL-3.0-only", "agpl 3.0": "AGPL-3.0-only", "lgpl 2.1": "LGPL-2.1-only",
    "lgpl 3.0": "LGPL-3.0-only", "the unlicense": "Unlicense", "gfdl": "GFDL-1.3-only",
}  # fmt: skip
"""Names as sources write them, in lower case with single spaces for all signs."""

_CC: Final = re.compile(
    r"(?:cc|creative commons)\W*(by|attribution)(?P<terms>(?:\W+(?:nc|sa|nd|non\W?commercial|"
    r"share\W?alike|no\W?deriv\w*))*)\W*(?P<version>[1-4]\.[05])?(?:\W*(?:international|"
    r"unported|license))*"
)
_SHARE_ALIKE: Final = {
    "CC-BY-SA": "CC-BY-SA", "CC-BY-NC-SA": "CC-BY-NC-SA", "ODbL": "ODbL", "GPL": "GPL",
    "AGPL": "AGPL", "LGPL": "LGPL", "MPL": "MPL", "CDLA-Sharing": "CDLA-Sharing", "GFDL": "GFDL",
    "EUPL": "EUPL", "OSL": "OSL",
}  # fmt: skip
"""Licenses, without their version, that the whole must have too."""

_PERMISSIVE: Final = frozenset({
    "0BSD", "Apache", "Artistic", "BSD-2-Clause", "BSD-3-Clause", "BSL", "CC-BY", "CC0",
    "CDLA-Permissive", "ECL", "ISC", "MIT", "MIT-0", "NCSA", "ODC-By", "PDDL", "PostgreSQL",
    "Unlicense", "WTFPL", "Zlib", "etalab", PUBLIC_DOMAIN,
})  # fmt: skip
_NO_NOTICE: Final = frozenset({"0BSD", "CC0", "MIT-0", "PDDL", "Unlicense", "WTFPL", PUBLIC_DOMAIN})

_HUB: Final = frozenset({
    "apache-2.0", "mit", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "c-uda", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0",
    "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0",
    "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "eupl-1.2", "agpl-3.0", "gfdl", "gpl-2.0",
    "gpl-3.0", "lgpl-2.1", "lgpl-3.0", "isc", "lppl-1.3c", "ms-pl", "mpl-2.0", "odc-by", "odbl",
    "osl-3.0", "postgresql", "ofl-1.1", "ncsa", "unlicense", "zlib", "pddl",
})  # fmt: skip
"""The hub's ids of licenses that have an SPDX id."""

_MAX_CHOICES: Final = 4096
"""Combinations of alternatives (`A OR B`) that are tried for one that has a whole."""


@dataclass(frozen=True)
class Terms:
    """What one license demands.

    Attributes:
        share_alike: The license without its version, where the whole must have it; else None.
        non_commercial: Whether commercial use is forbidden.
        no_derivatives: Whether changed versions are.
        notice: Whether authors and license must be named.
        known: Whether the other terms are known at all.
    """

    share_alike: str | None = None
    non_commercial: bool = False
    no_derivatives: bool = False
    notice: bool = True
    known: bool = True


@dataclass(frozen=True)
class Whole:
    """The license of a set of rows.

    Attributes:
        id: The hub's id: `other` for mixtures and what it has no id for, `unknown` where no
            license is known.
        name: An SPDX expression, or the text of a license that has no id.
        obligations: What whoever uses or shares the set has to do, one sentence each.
        conflicts: Why no license fits the whole, one sentence for each pair; empty where one
            does.
    """

    id: str
    name: str
    obligations: tuple[str, ...]
    conflicts: tuple[str, ...] = ()

    @property
    def carried(self) -> tuple[str, ...]:
        """The obligations that a part lays on the whole: share-alike, non-commercial."""
        return tuple(what for what in self.obligations if what.startswith((NO_COMMERCE, SHARE)))


def alternatives(license: str | None) -> tuple[frozenset[str], ...] | None:
    """The sets of licenses of which one must be met whole; None for a license that is not known.

    Args:
        license: An SPDX expression, or a text as sources write it.

    >>> alternatives("MIT OR Apache 2.0")
    (frozenset({'Apache-2.0'}), frozenset({'MIT'}))
    >>> alternatives("CC BY-NC-SA 4.0"), alternatives("see the web page")
    ((frozenset({'CC-BY-NC-SA-4.0'}),), None)
    """
    return _alternatives((license or "").strip())


@cache
def _alternatives(text: str) -> tuple[frozenset[str], ...] | None:
    if text.lower() in _UNSTATED:
        return None
    if single := _single(text):
        return (frozenset({single}),)
    tokens = re.findall(r"\(|\)|(?:(?!\s+(?:AND|OR)\s)[^()])+|\s+(?:AND|OR)\s+", text)
    tokens = [token.strip() for token in tokens if token.strip()]
    try:
        result, rest = _either(tokens)
    except (IndexError, ValueError):
        return None
    return None if rest else tuple(sorted(result, key=sorted))


def _either(tokens: list[str]) -> tuple[set[frozenset[str]], list[str]]:
    """`A OR B`: the sets of both, and the tokens behind it."""
    result, tokens = _both(tokens)
    while tokens and tokens[0] == "OR":
        more, tokens = _both(tokens[1:])
        result = result | more
    return result, tokens


def _both(tokens: list[str]) -> tuple[set[frozenset[str]], list[str]]:
    """`A AND B`: each set of the one with each of the other."""
    result, tokens = _unit(tokens)
    while tokens and tokens[0] == "AND":
        more, tokens = _unit(tokens[1:])
        result = {a | b for a in result for b in more}
    return result, tokens


def _unit(tokens: list[str]) -> tuple[set[frozenset[str]], list[str]]:
    """A license, or an expression in parentheses.

    Raises:
        ValueError: It is neither.
    """
    if tokens[0] == "(":
        result, rest = _either(tokens[1:])
        if rest[0] != ")":
            raise ValueError(f"must be ), got {rest[0]}")
        return result, rest[1:]
    single = _single(tokens[0])
    if single is None:
        raise ValueError(f"must be a license, got {tokens[0]}")
    return {frozenset({single})}, tokens[1:]


@cache
def _single(text: str) -> str | None:
    """The SPDX id that a text means; None where it means none."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    words = re.sub(r"[\s_,-]+", " ", text.lower()).strip()
    if known := _NAMES.get(words):
        return known
    # Without a version it is not known which one was meant.
    if (match := _CC.fullmatch(words)) and match["version"]:
        terms = re.sub(r"non\W?commercial", "nc", match["terms"])
        terms = re.sub(r"no\W?deriv\w*", "nd", re.sub(r"share\W?alike", "sa", terms))
        parts = [name for name in ("nc", "nd", "sa") if name in terms.split()]
        return "-".join(["CC-BY", *map(str.upper, parts), match["version"]])
    if re.search(r"\s(?:and|or)\s|[()]", text, re.I):
        return None
    try:
        identifier = str(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        return None
    # Former ids of the GNU family say neither `only` nor `or later`.
    former = re.fullmatch(r"(A?L?GPL|GFDL)-\d\.\d", identifier)
    return f"{identifier}-only" if former else identifier


def terms(identifier: str) -> Terms:
    """What a license demands.

    Args:
        identifier: An SPDX id.

    >>> terms("CC-BY-NC-SA-4.0").non_commercial, terms("CC-BY-NC-SA-4.0").share_alike
    (True, 'CC-BY-NC-SA')
    """
    family = _family(identifier)
    parts = family.split("-")
    is_cc = family.startswith("CC-BY")
    return Terms(
        share_alike=_SHARE_ALIKE.get(family),
        non_commercial=is_cc and "NC" in parts,
        no_derivatives=is_cc and "ND" in parts,
        notice=family not in _NO_NOTICE,
        known=is_cc or family in _SHARE_ALIKE or family in _PERMISSIVE,
    )


def _family(identifier: str) -> str:
    """The id without version, country and exception: `GPL` of `GPL-3.0-or-later`."""
    return re.sub(r"-\d+(?:\.\d+)*(?:-(?:only|or-later|[A-Z]{2,3}))?$", "", identifier.split()[0])


def _version(identifier: str) -> tuple[int, ...]:
    match = re.search(r"-(\d+(?:\.\d+)*)", identifier)
    return tuple(map(int, match[1].split("."))) if match else ()


def conflict(a: str, b: str) -> str | None:
    """Why two licenses have no whole; None where they have one.

    Args:
        a: An SPDX id.
        b: Another one.

    >>> conflict("CC-BY-NC-4.0", "CC-BY-SA-4.0")
    'CC-BY-SA-4.0 lets nobody add a term, and CC-BY-NC-4.0 forbids commercial use'
    >>> conflict("CC-BY-SA-3.0", "CC-BY-SA-4.0") is None
    True
    """
    for one, other in ((a, b), (b, a)):
        shares, beside = terms(one).share_alike, terms(other)
        if not shares:
            continue
        if beside.non_commercial and not terms(one).non_commercial:
            return f"{one} lets nobody add a term, and {other} forbids commercial use"
        if beside.share_alike and not _follows(one, other):
            return f"the whole would have to be under {one}, and under {other} as well"
        if {one, other} == {"GPL-2.0-only", "Apache-2.0"}:
            return f"{one} lets nobody add a term, and {other} has one about patents"
    return None


def _follows(one: str, other: str) -> bool:
    """Whether what is under both share-alike licenses can be under one of them."""
    families = {_family(one), _family(other)}
    if len(families) == 1:
        fixed = [i for i in (one, other) if i.endswith("-only")]
        newest = max(_version(one), _version(other))
        # Creative Commons and `or-later` go on to later versions, `only` stays.
        return all(_version(i) == newest for i in fixed)
    # GPL takes these up: CC's list of compatible licenses, and section 13 of GPL 3.
    into_gpl = families & {"CC-BY-SA", "LGPL", "MPL", "AGPL"}
    gpl = next((i for i in (one, other) if _family(i) == "GPL"), "")
    return bool(into_gpl) and gpl.startswith(("GPL-3.0", "GPL-2.0-or-later"))


def whole(licenses: Iterable[str | None]) -> Whole:
    """The license of a set of rows.

    Args:
        licenses: The license of each row or source, each once or more.

    >>> whole(["MIT", "CC BY-NC 4.0"]).id, whole(["MIT", "Apache-2.0"]).name
    ('cc-by-nc-4.0', 'Apache-2.0 AND MIT')
    >>> whole(["CC-BY-SA-3.0", "CC-BY-SA-4.0", "MIT"]).id
    'cc-by-sa-4.0'
    """
    stated = sorted({(license or "").strip() for license in licenses})
    known = [choices for text in stated if (choices := alternatives(text))]
    unstated = [text for text in stated if alternatives(text) is None]
    chosen = _chosen(known)
    conflicts = conflicts_of(chosen)
    if conflicts or unstated or not chosen:
        names = [*sorted(chosen), *(text or UNKNOWN for text in unstated)]
        identifier = UNKNOWN if not chosen and not any(map(_is_text, unstated)) else "other"
        name = " AND ".join(dict.fromkeys(names)) or UNKNOWN
        more = [
            f"find out what {text or 'the rows without a license'} demands" for text in unstated
        ]
        return Whole(identifier, name, (*more, *_obligations(chosen)), tuple(conflicts))
    governing = _governing(chosen)
    name = governing or " AND ".join(sorted(chosen))
    return Whole(hub_id(governing) if governing else "other", name, tuple(_obligations(chosen)))


def _is_text(text: str) -> bool:
    return text.lower() not in _UNSTATED


def _chosen(known: Sequence[tuple[frozenset[str], ...]]) -> frozenset[str]:
    """Of the alternatives those that go together, with as few terms as possible."""

    def cost(ids: frozenset[str]) -> tuple[int, int, int, list[str]]:
        every = [terms(i) for i in ids]
        restricted = sum(t.non_commercial + bool(t.share_alike) + 2 * (not t.known) for t in every)
        return len(conflicts_of(ids)), restricted, len(ids), sorted(ids)

    fixed = frozenset[str]().union(*(choices[0] for choices in known if len(choices) == 1))
    free = [choices for choices in known if len(choices) > 1]
    options = (fixed.union(*choice) for choice in islice(product(*free), _MAX_CHOICES))
    return min(options, key=cost)


def conflicts_of(ids: Iterable[str]) -> list[str]:
    """Why licenses have no whole, one sentence for each pair or license.

    Args:
        ids: SPDX ids.
    """
    ordered = sorted(ids)
    fixed = [i for i in ordered if terms(i).no_derivatives]
    alone = [f"{i} forbids changed versions, and a curated set is one" for i in fixed]
    pairs = (conflict(a, b) for a, b in combinations(ordered, 2))
    return [*alone, *(why for why in pairs if why)]


def _governing(ids: frozenset[str]) -> str | None:
    """The license that the whole must have; None where each part keeps its own."""
    for binds in (
        [i for i in ids if _family(i) == "GPL"],
        [i for i in ids if terms(i).share_alike],
        [i for i in ids if terms(i).non_commercial],
        list(ids) if len(ids) == 1 else [],
    ):
        if binds:
            return max(binds, key=lambda i: (_version(i), i))
    return None


def hub_id(identifier: str) -> str:
    """The hub's id of a license, `other` where it has none.

    >>> hub_id("GPL-3.0-or-later"), hub_id("ODC-By-1.0"), hub_id("CC-BY-SA-2.0")
    ('gpl-3.0', 'odc-by', 'other')
    """
    bare = re.sub(r"-(?:only|or-later)$", "", identifier)
    names = (bare.lower(), _family(identifier).lower())
    return next((name for name in names if name in _HUB), "other")


def _obligations(ids: Iterable[str]) -> Iterator[str]:
    ordered = sorted(ids)
    for what, bound in (
        ("name the authors and keep the notices", [i for i in ordered if terms(i).notice]),
        (NO_COMMERCE, [i for i in ordered if terms(i).non_commercial]),
        (
            SHARE,
            [i for i in ordered if terms(i).share_alike],
        ),
        ("read the terms, which are not known here", [i for i in ordered if not terms(i).known]),
    ):
        if bound:
            yield f"{what} ({', '.join(bound)})"
