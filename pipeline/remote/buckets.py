"""Places that keep files by key, for a store's artifacts: an S3 prefix, or a folder.

A file is there whole or not at all: S3 has no halves, and in a folder it is renamed into place.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from pipeline.errors import UserError
from pipeline.remote.s3 import MISSING, s3_client, s3_errors, status_of
from pipeline.remote.waiting import DEFAULT_SECONDS, Patience
from pipeline.store.file_hashes import file_digest

T = TypeVar("T")
SCHEMES: Final = "s3://BUCKET/PREFIX or file:///FOLDER"


class Bucket(Protocol):
    """A place that keeps files by key."""

    address: str

    def names(self, prefix: str) -> list[str]:
        """The names directly below a prefix that ends in a slash.

        Args:
            prefix: Such as `artifacts/`.
        """

    def has(self, key: str, sha256: str, size: int) -> bool:
        """Whether a file with this content is there.

        Args:
            key: Its key.
            sha256: Its digest.
            size: Its size in bytes.
        """

    def put(self, key: str, path: Path, sha256: str) -> None:
        """Send a file.

        Args:
            key: Its key.
            path: The file.
            sha256: Its digest.
        """

    def get(self, key: str, path: Path) -> bool:
        """Fetch a file; whether it is there.

        Args:
            key: Its key.
            path: Where to; its folder exists.
        """


def bucket_at(address: str, seconds: float = DEFAULT_SECONDS) -> Bucket:
    """The place of an address.

    Args:
        address: `s3://BUCKET/PREFIX` or `file:///FOLDER`.
        seconds: How long a busy server is asked again.

    Raises:
        UserError: It is none of these.
    """
    parts = urlsplit(address)
    if parts.scheme == "s3" and parts.netloc:
        return S3Bucket(address.rstrip("/"), parts.netloc, parts.path.strip("/"), seconds)
    if parts.scheme == "file" and not parts.netloc and parts.path.strip("/"):
        return FolderBucket(address, Path(unquote(parts.path)))
    raise UserError(f"the place must be {SCHEMES}, got {address!r}")


@dataclass
class S3Bucket:
    """A prefix of a bucket, on any server that speaks S3.

    Args:
        address: Its address.
        bucket: The bucket.
        prefix: The prefix, without slashes at its ends.
        seconds: How long a busy server is asked again.

    Attributes:
        patience: What is left of that.
    """

    address: str
    bucket: str
    prefix: str
    seconds: float
    patience: Patience = field(init=False)

    def __post_init__(self) -> None:
        why, hint = "what was sent stays there", "the same command later: it sends what is missing"
        self.patience = Patience(self.seconds, self.address, why, hint)

    @cached_property
    def _client(self) -> Any:
        return s3_client(self.seconds)

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _tried(self, verb: str, step: Callable[[], T]) -> T:
        def once() -> T:
            with s3_errors(self.address, verb):
                return step()

        return self.patience.retry(once)

    def names(self, prefix: str) -> list[str]:
        """The names directly below a prefix that ends in a slash.

        Args:
            prefix: Such as `artifacts/`.
        """
        start = self._key(prefix)

        def listed() -> list[str]:
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=start, Delimiter="/"
            )
            return [
                entry["Prefix"].removeprefix(start).rstrip("/")
                for page in pages
                for entry in page.get("CommonPrefixes", [])
            ]

        return self._tried("read", listed)

    def has(self, key: str, sha256: str, size: int) -> bool:
        """Whether a file with this content is there.

        Args:
            key: Its key.
            sha256: Its digest.
            size: Its size in bytes.
        """

        def asked() -> bool:
            try:
                head = self._client.head_object(Bucket=self.bucket, Key=self._key(key))
            except self._client.exceptions.ClientError as error:
                if status_of(error) in MISSING:
                    return False
                raise
            stated: str | None = head["Metadata"].get("sha256")
            return stated == sha256 and head["ContentLength"] == size

        return self._tried("read", asked)

    def put(self, key: str, path: Path, sha256: str) -> None:
        """Send a file.

        Args:
            key: Its key.
            path: The file.
            sha256: Its digest.
        """
        metadata = {"Metadata": {"sha256": sha256}}
        self._tried(
            "write",
            lambda: self._client.upload_file(
                str(path), self.bucket, self._key(key), ExtraArgs=metadata
            ),
        )

    def get(self, key: str, path: Path) -> bool:
        """Fetch a file; whether it is there.

        Args:
            key: Its key.
            path: Where to; its folder exists.
        """

        def fetched() -> bool:
            try:
                self._client.download_file(self.bucket, self._key(key), str(path))
            except self._client.exceptions.ClientError as error:
                if status_of(error) in MISSING:
                    return False
                raise
            return True

        return self._tried("read", fetched)


@dataclass
class FolderBucket:
    """A folder, such as a shared disk.

    Args:
        address: Its address.
        folder: The folder; it need not exist.
    """

    address: str
    folder: Path

    def names(self, prefix: str) -> list[str]:
        """The names directly below a prefix that ends in a slash.

        Args:
            prefix: Such as `artifacts/`.
        """
        below = self.folder / prefix
        return sorted(p.name for p in below.iterdir() if p.is_dir()) if below.is_dir() else []

    def has(self, key: str, sha256: str, size: int) -> bool:
        """Whether a file with this content is there.

        Args:
            key: Its key.
            sha256: Its digest.
            size: Its size in bytes.
        """
        path = self.folder / key
        same_size = path.is_file() and path.stat().st_size == size
        return same_size and file_digest(path) == sha256

    def put(self, key: str, path: Path, sha256: str) -> None:
        """Send a file.

        Args:
            key: Its key.
            path: The file.
            sha256: Its digest.

        Raises:
            UserError: The copy is another one.
        """
        target = self.folder / key
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{uuid.uuid4().hex}")
        try:
            shutil.copyfile(path, partial)
            if file_digest(partial) != sha256:
                raise UserError("the copy is not what was sent", where=str(target))
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def get(self, key: str, path: Path) -> bool:
        """Fetch a file; whether it is there.

        Args:
            key: Its key.
            path: Where to; its folder exists.
        """
        source = self.folder / key
        if not source.is_file():
            return False
        shutil.copyfile(source, path)
        return True
