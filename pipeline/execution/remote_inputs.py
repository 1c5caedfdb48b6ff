"""Input files that lie elsewhere: copied into the store once, and read there.

A run fetches what was never fetched, and a refresh looks whether anything changed; nothing
else asks a server. So a run gives what the store has seen, also offline, and a file enters
fingerprints by its content, as every other. What was fetched is recorded in `inputs.json`; the
copies lie in `inputs/<sha256>/<name>`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shlex
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO, Final

from typing_extensions import TypedDict

from pipeline.errors import Exit, UserError
from pipeline.recipe.graph import Step
from pipeline.remote.addresses import is_remote, parse
from pipeline.remote.places import RemoteFile, files_at
from pipeline.remote.waiting import Patience, TryLater
from pipeline.store.file_hashes import FileDigests
from pipeline.store.files import DamagedFile, read_json, write_json
from pipeline.store.store import Store
from pipeline.wording import byte_size

_log = logging.getLogger(__name__)

RECORD: Final = "inputs.json"
COPIES: Final = "inputs"
_WAIT: Final = 120.0
"""Seconds for which a busy server is asked again."""


class Fetched(TypedDict):
    """A file that was fetched.

    Attributes:
        url: Where from.
        name: Its name.
        version: What its place said that changes with its content.
        bytes: Its size.
        sha256: Its digest.
    """

    url: str
    name: str
    version: str
    bytes: int
    sha256: str


class NotFetched(UserError):
    """A file that lies elsewhere and was never copied here.

    Args:
        address: Its address.
    """

    def __init__(self, address: str) -> None:
        super().__init__(f"{address} was never fetched", hint="run fetches it")
        self.address = address


def addresses_of(steps: Iterable[Step]) -> list[str]:
    """The addresses that steps read, each once.

    Args:
        steps: Steps of a recipe.
    """
    return list(dict.fromkeys(address for step in steps for address in _of_step(step)))


def _of_step(step: Step) -> Iterator[str]:
    for option in step.stage.options:
        if option.names_files:
            yield from filter(is_remote, getattr(step.options, option.name) or ())


def with_copies(
    step: Step, options: SimpleNamespace, store: Store, files: FileDigests
) -> SimpleNamespace:
    """The options of a step; files that lie elsewhere are their copies in the store.

    Args:
        step: The step.
        options: Its options.
        store: Where the copies are.
        files: Digests of files.

    Raises:
        NotFetched: There is no copy of one, or it is damaged.
    """
    if not addresses_of([step]):
        return options
    values, record = dict(vars(options)), fetched(store)
    for option in step.stage.options:
        if option.names_files and values[option.name]:
            paths = (_local(path, record, store, files) for path in values[option.name])
            values[option.name] = tuple(path for several in paths for path in several)
    return SimpleNamespace(**values)


def _local(
    path: str, record: Mapping[str, list[Fetched]], store: Store, files: FileDigests
) -> list[str]:
    if not is_remote(path):
        return [path]
    entries = record.get(path)
    if not entries or not all(_is_here(entry, store, files) for entry in entries):
        raise NotFetched(path)
    return [str(_copy(entry, store)) for entry in entries]


def _copy(entry: Fetched, store: Store) -> Path:
    return store.root / COPIES / entry["sha256"] / entry["name"]


def _is_here(entry: Fetched, store: Store, files: FileDigests) -> bool:
    try:
        return files.get(_copy(entry, store)) == entry["sha256"]
    except OSError:
        return False


def fetched(store: Store) -> dict[str, list[Fetched]]:
    """What was fetched, by the address that the recipe writes.

    Args:
        store: The store.

    Raises:
        UserError: The record is damaged: another content must not be taken in silence.
    """
    path = store.root / RECORD
    try:
        return read_json(path, dict[str, list[Fetched]]) or {}
    except DamagedFile as damage:
        hint = f"rm {shlex.quote(str(path))}: what it names is fetched again"
        raise damage.as_error(hint) from None


def copies(paths: Iterable[str], store: Store) -> list[str]:
    """The paths; files that lie elsewhere are their copies in the store, fetched if need be.

    Args:
        paths: Paths and addresses, as a recipe's option has them.
        store: Where the copies are.

    Raises:
        UserError: A file is not there, is not what it was, or its server does not answer (exit
            code 9).
    """
    files, local = store.files(), list[str]()
    for path in paths:
        try:
            local += _local(path, fetched(store), store, files)
        except NotFetched:
            _Fetch(path, store, files).take()
            local += _local(path, fetched(store), store, files)
    return local


def fetch_missing(steps: Iterable[Step], store: Store) -> None:
    """Fetch what steps read and the store has no copy of.

    Args:
        steps: Steps of a recipe.
        store: Where the copies go.

    Raises:
        UserError: A file is not there, is not what it was, or its server does not answer (exit
            code 9).
    """
    copies(addresses_of(steps), store)


def fetch_changed(steps: Iterable[Step], store: Store, *, had_release: bool) -> None:
    """Look at every address anew, and fetch what its place has in another version.

    Args:
        steps: Steps of a recipe.
        store: Where the copies go.
        had_release: Whether the files were there before, so that one that is not has vanished.

    Raises:
        UserError: A file is not there, or its server does not answer (exit code 9).
    """
    files = store.files()
    for address in addresses_of(steps):
        try:
            _Fetch(address, store, files).take(anew=True)
        except UserError as error:
            if error.code is Exit.SOURCE_LOST and not had_release:
                error.code = Exit.MISTAKE
            raise


@dataclass
class _Fetch:
    """One address on its way into the store.

    Attributes:
        address: What the recipe writes.
        store: The store.
        files: Digests of files.
    """

    address: str
    store: Store
    files: FileDigests

    def take(self, *, anew: bool = False) -> None:
        """Fetch what is not here, and record it.

        Args:
            anew: Whether another version takes the place of what was fetched before.
        """
        before = {entry["url"]: entry for entry in fetched(self.store).get(self.address, ())}
        patience = Patience(
            _WAIT, self.address, "what was fetched before stays", "the same command later"
        )
        present = patience.retry(lambda: files_at(parse(self.address)))
        if not present:
            what = "no file is there" if parse(self.address).is_pattern else "it is not there"
            raise UserError(what, where=self.address, code=Exit.SOURCE_LOST)
        if before and not anew:
            self._refuse_changed(before, present)
        entries = [self._entry(file, before.get(file.url), patience) for file in present]
        record = fetched(self.store)
        if record.get(self.address) != entries:
            write_json(self.store.root / RECORD, {**record, self.address: entries})

    def _refuse_changed(self, before: Mapping[str, Fetched], present: list[RemoteFile]) -> None:
        """Refuse other files than those that were fetched: a run gives what the store has seen."""
        now = {file.url: file.version for file in present}
        then = {url: entry["version"] for url, entry in before.items()}
        if changed := sorted(url for url in now.keys() | then if now.get(url) != then.get(url)):
            raise UserError(
                "what was fetched is gone from the store, and its place has something else now",
                where=self.address,
                why=f"changed since: {', '.join(changed[:5])}",
                hint="refresh takes what is there now",
            )

    def _entry(self, file: RemoteFile, before: Fetched | None, patience: Patience) -> Fetched:
        same = before if before and before["version"] == file.version else None
        if same and _is_here(same, self.store, self.files):
            return same
        sha256, size = patience.retry(lambda: self._download(file))
        expected = same["sha256"] if same else parse(self.address).sha256
        if expected not in (None, sha256):
            raise UserError("it is not what it must be", where=file.url,
                            why=f"its sha256 must be {expected}, got {sha256}")  # fmt: skip
        return Fetched(
            url=file.url, name=file.name, version=file.version, bytes=size, sha256=sha256
        )

    def _download(self, file: RemoteFile) -> tuple[str, int]:
        """Copy a file into the store; its digest and size.

        Raises:
            TryLater: Its bytes did not come whole.
        """
        amount = "" if file.bytes is None else f" ({byte_size(file.bytes)})"
        _log.warning("fetching %s%s", file.url, amount)
        folder = self.store.root / COPIES
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{uuid.uuid4().hex}"
        try:
            with temporary.open("wb") as target:
                hashed = _Hashed(target)
                file.write(hashed)  # type: ignore[arg-type]
                target.flush()
                os.fsync(target.fileno())
            if file.bytes not in (None, hashed.size):
                raise TryLater(f"{hashed.size:,} of {file.bytes:,} bytes came")
            sha256 = hashed.digest.hexdigest()
            (folder / sha256).mkdir(exist_ok=True)
            temporary.replace(folder / sha256 / file.name)
        finally:
            temporary.unlink(missing_ok=True)
        return sha256, hashed.size


class _Hashed:
    """A file that is written, with the digest of what was.

    Args:
        target: The file.
    """

    def __init__(self, target: BinaryIO) -> None:
        self.target, self.digest, self.size = target, hashlib.sha256(), 0

    def write(self, part: bytes) -> int:
        """Write a part."""
        self.digest.update(part)
        self.size += len(part)
        return self.target.write(part)
