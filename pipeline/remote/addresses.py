"""Addresses of input files that lie elsewhere: what a recipe may write, known without any network.

s3://BUCKET/PATH.jsonl                  one object, or several by a pattern (*, ?, **)
hf://datasets/OWNER/NAME[@REV]/PATH     files of a repository of the hub
https://HOST/PATH#sha256=HEX            one file, whose digest the recipe says
gs://..., az://..., ...                 what fsspec opens with the package for it
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

_ADDRESS: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_DIGEST: Final = re.compile(r"sha256=([0-9a-f]{64})")
_HUB: Final = re.compile(r"(?:datasets|models|spaces)/[^/]+/[^/]+/")
_WILD: Final = re.compile(r"[*?\[]")
_WEB: Final = ("http", "https")


class Address(NamedTuple):
    """One address of a recipe.

    Attributes:
        scheme: Such as `s3`.
        rest: What follows `://`, without the digest.
        sha256: The digest that the recipe says; None without one.
    """

    scheme: str
    rest: str
    sha256: str | None = None

    @property
    def url(self) -> str:
        """The address without its digest."""
        return f"{self.scheme}://{self.rest}"

    @property
    def is_pattern(self) -> bool:
        """Whether it may name several files."""
        return self.scheme not in _WEB and bool(_WILD.search(self.rest))

    @property
    def name(self) -> str:
        """The name of the file; its ending says what it holds."""
        path = urlsplit(self.url).path if self.scheme in _WEB else self.rest
        return PurePosixPath(unquote(path) if self.scheme in _WEB else path).name


def is_remote(text: str) -> bool:
    """Whether a text of a recipe is the address of something elsewhere rather than a path.

    Example:
        >>> is_remote("s3://bucket/a.jsonl"), is_remote("data/a.jsonl")
        (True, False)
    """
    return _ADDRESS.match(text) is not None


def parse(text: str) -> Address:
    """An address.

    Args:
        text: What a recipe says, of which `mistake` says nothing.
    """
    match = _ADDRESS.match(text)
    assert match is not None, "is_remote says so"
    scheme, rest = match[1].lower(), match[2]
    before, mark, fragment = rest.rpartition("#")
    digest = _DIGEST.fullmatch(fragment) if mark else None
    return Address(scheme, before, digest[1]) if digest else Address(scheme, rest)


def mistake(text: str) -> str | None:
    """What is wrong with an address, as the end of "path ..."; None where nothing is.

    Args:
        text: What a recipe says; `is_remote`.

    Example:
        >>> mistake("https://example.org/a.jsonl")
        'must end in the digest of the file, #sha256=HEX: what a server answers may change'
    """
    address = parse(text)
    if address.scheme == "file":
        return f"must be a path, got {text!r}"
    if not address.name or address.name == ".." or address.rest.endswith("/"):
        return f"must name a file, got {text!r}"
    if address.scheme in _WEB:
        if "@" in urlsplit(address.url).netloc:
            return "must not hold a password: a recipe is shared"
        if address.sha256 is None:
            return (
                "must end in the digest of the file, #sha256=HEX: what a server answers may change"
            )
    if address.scheme == "s3" and not address.rest.partition("/")[2]:
        return f"must be s3://BUCKET/PATH, got {text!r}"
    if address.scheme == "hf" and not _HUB.match(address.rest):
        return f"must be hf://datasets/OWNER/NAME/PATH, got {text!r}"
    return None
