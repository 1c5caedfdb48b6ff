"""Publishing to S3: one prefix a version, which never changes, and `latest.json`.

`release.json` is written last: a version is there from then on. `latest.json` is moved by
compare-and-set (`If-Match`), so that of two publishers the later one does not undo the other.
Some servers ignore that condition in silence; they are asked first, and refused where
`latest` is to be moved.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import UserError
from pipeline.releases.publication import (
    RENDERED,
    Publication,
    missing_version,
    other_content,
)
from pipeline.releases.transports import Erased, Outcome, Source, pointer
from pipeline.remote.s3 import BUSY, CONFLICT, MISSING, code_of, s3_client, s3_errors, status_of
from pipeline.remote.waiting import Patience, TryLater
from pipeline.store.releases import FILE

T = TypeVar("T")


@dataclass
class S3Transport:
    """A prefix of a bucket, on any server that speaks S3.

    Args:
        location: `BUCKET/PREFIX`. Server and credentials come from the environment
            (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, ...), as boto3 reads it.
        patience: How long to wait for the server.
    """

    location: str
    patience: Patience

    def __post_init__(self) -> None:
        self.bucket, _, prefix = self.location.partition("/")
        self.prefix = prefix.strip("/")
        self.address = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        self.patience.address = self.address

    @cached_property
    def client(self) -> Any:
        """boto3's client."""
        return s3_client(self.patience.seconds)

    def retry(self, step: Callable[[], T]) -> T:
        """The result of a step, tried until the server answers.

        Args:
            step: Something that may be done again.

        Raises:
            UserError: The server refuses, or does not answer in time.
        """

        def tried() -> T:
            with s3_errors(self.address):
                return step()

        return self.patience.retry(tried)

    def _key(self, *parts: str) -> str:
        return "/".join(part for part in (self.prefix, *parts) if part)

    def _read(self, key: str) -> tuple[bytes, str] | None:
        """An object and its ETag; None where there is none."""
        try:
            answer = self.client.get_object(Bucket=self.bucket, Key=key)
        except self.client.exceptions.ClientError as error:
            if status_of(error) in MISSING and code_of(error) != "NoSuchBucket":
                return None
            raise
        return answer["Body"].read(), answer["ETag"]

    def _put(self, key: str, content: bytes, **conditions: str) -> None:
        self.client.put_object(
            Bucket=self.bucket,
            Key=key,
            Body=content,
            ContentType="application/json",
            **conditions,
        )

    # Publishing

    def check(self, publication: Publication, move_latest: bool) -> None:
        """Refuse a place of other releases, and one where `latest` cannot be moved safely.

        Args:
            publication: What is to be published.
            move_latest: Whether `latest` is to be moved.

        Raises:
            UserError: It is one of these.
        """
        current = self.retry(self._pointer)
        pointer.check_name(current and current[0], publication.name, self.address)
        if move_latest:
            self.retry(self._check_conditions)

    def _check_conditions(self) -> None:
        """Ask the server whether it honours conditions, with an object of no meaning."""
        key = self._key(f".probe-{uuid.uuid4().hex}")
        try:
            self._put(key, b"{}")
            honoured = all(
                self._refuses(key, **condition)
                for condition in ({"IfNoneMatch": "*"}, {"IfMatch": f'"{"0" * 32}"'})
            )
        finally:
            self.client.delete_object(Bucket=self.bucket, Key=key)
        if not honoured:
            raise UserError(
                "this server ignores conditional writes, so `latest` cannot be moved safely",
                where=self.address,
                why="two publishers at once would undo each other without notice",
                hint="--no-latest publishes the version alone; readers then name it",
            )

    def _refuses(self, key: str, **condition: str) -> bool:
        try:
            self._put(key, b"{}", **condition)
        except self.client.exceptions.ClientError as error:
            if status_of(error) in BUSY or status_of(error) in (401, 403):
                raise
            return status_of(error) in CONFLICT
        return False

    def publish(self, publication: Publication, move_latest: bool) -> Outcome:
        """Upload what is missing, then `release.json`, then move `latest`.

        Args:
            publication: What is to be published.
            move_latest: Whether `latest` is to name the version.

        Raises:
            UserError: The version is there with other content, or the server refuses or does
                not answer in time.
        """
        is_new = self.retry(lambda: self._ensure_version(publication))
        moved = move_latest and self.retry(
            lambda: self._move(pointer.forward, publication.name, publication.version)
        )
        address = f"{self.address}/{publication.version}"
        return Outcome(address, is_new or moved, publication.version if moved else None)

    def _ensure_version(self, publication: Publication) -> bool:
        record = publication.files[FILE].read_bytes()
        key = self._key(publication.version, FILE)
        if (present := self._read(key)) is not None:
            if present[0] != record:
                raise other_content(publication.version, self.address)
            return False
        for path in publication.files:
            if path != FILE:
                self._ensure_object(publication, path)
        try:
            self._put(key, record, IfNoneMatch="*")
        except self.client.exceptions.ClientError as error:
            if status_of(error) in CONFLICT:
                raise TryLater("another publisher was faster") from None
            raise
        return True

    def _ensure_object(self, publication: Publication, path: str) -> None:
        key, entry = self._key(publication.version, path), publication.entries[path]
        try:
            head = self.client.head_object(Bucket=self.bucket, Key=key)
        except self.client.exceptions.ClientError as error:
            if status_of(error) not in MISSING:
                raise
            head = None
        stated = head and head["Metadata"].get("sha256")
        if stated == entry["sha256"] and head["ContentLength"] == entry["bytes"]:
            return
        if stated and path not in RENDERED:
            raise other_content(publication.version, self.address)
        self.client.upload_file(
            str(publication.files[path]),
            self.bucket,
            key,
            ExtraArgs={"Metadata": {"sha256": entry["sha256"]}},
        )

    def _pointer(self) -> tuple[pointer.Pointer, str] | None:
        """`latest.json` and its ETag."""
        present = self._read(self._key(pointer.FILE))
        if present is None:
            return None
        return pointer.parse(present[0], f"{self.address}/{pointer.FILE}"), present[1]

    def _move(
        self,
        direction: Callable[[pointer.Pointer | None, str, str, str], pointer.Pointer | None],
        name: str,
        version: str,
    ) -> bool:
        """Compare and set `latest.json`; whether it was moved."""
        present = self._pointer()
        moved = direction(present and present[0], name, version, self.address)
        if moved is None:
            return False
        condition = {"IfMatch": present[1]} if present else {"IfNoneMatch": "*"}
        try:
            self._put(self._key(pointer.FILE), json.dumps(moved).encode(), **condition)
        except self.client.exceptions.ClientError as error:
            if status_of(error) in (*CONFLICT, *MISSING):
                raise TryLater("another one moved `latest`") from None
            raise
        return True

    def has_version(self, version: str) -> bool:
        """Whether a version is there; nothing is fetched.

        Args:
            version: The version.

        Raises:
            UserError: The server refuses, or does not answer in time.
        """
        return self.retry(lambda: self._read(self._key(version, FILE))) is not None

    def download(self, publication: Publication, folder: Path) -> Source:
        """Fetch the version's objects.

        Args:
            publication: What was published.
            folder: An empty folder.

        Raises:
            UserError: The server refuses, or does not answer in time.
        """
        for path in publication.files:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            key = self._key(publication.version, path)
            target = str(folder / path)
            self.retry(partial(self.client.download_file, self.bucket, key, target))
        return Source(folder, str(folder))

    def rollback(self, name: str, version: str) -> Outcome:
        """Let `latest.json` name an earlier version.

        Args:
            name: The release's name.
            version: The earlier version.

        Raises:
            UserError: It is not published there, or the server ignores conditions, refuses,
                or does not answer in time.
        """
        self.retry(self._check_conditions)
        if self.retry(lambda: self._read(self._key(version, FILE))) is None:
            raise missing_version(version, self.retry(self._versions), self.address)
        moved = self.retry(lambda: self._move(pointer.back, name, version))
        return Outcome(f"{self.address}/{version}", moved, version)

    def _versions(self) -> list[str]:
        return [
            key.split("/")[-2]
            for key, _, _ in self._objects(self._key("") + "/" if self.prefix else "")
            if key.endswith(f"/{FILE}")
        ]

    def _objects(self, prefix: str) -> Iterator[tuple[str, str | None, int]]:
        """Key, version id and size of every object below a prefix, with all earlier versions."""
        status = self.client.get_bucket_versioning(Bucket=self.bucket).get("Status")
        if status:
            pages = self.client.get_paginator("list_object_versions")
            for page in pages.paginate(Bucket=self.bucket, Prefix=prefix):
                for entry in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
                    yield entry["Key"], entry["VersionId"], entry.get("Size", 0)
            return
        pages = self.client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self.bucket, Prefix=prefix):
            for entry in page.get("Contents", []):
                yield entry["Key"], None, entry["Size"]

    def _listed(self, prefix: str) -> list[tuple[str, str | None, int]]:
        return list(self._objects(prefix))

    def erase(self, versions: list[str]) -> Erased:
        """Remove the objects of versions, with what the bucket keeps of them.

        Args:
            versions: The versions.

        Raises:
            UserError: One of them is the current one, or the server refuses.
        """
        current = self.retry(self._pointer)
        if current is not None and current[0]["version"] in versions:
            raise pointer.current_version(current[0]["version"], self.address)
        erased, files, size = [], 0, 0
        for version in versions:
            prefix = self._key(version) + "/"
            objects = self.retry(partial(self._listed, prefix))
            for key, version_id, bytes_ in objects:
                options = {"VersionId": version_id} if version_id else {}
                self.retry(
                    partial(self.client.delete_object, Bucket=self.bucket, Key=key, **options)
                )
                files, size = files + 1, size + bytes_
            erased += [version] * bool(objects)
        return Erased(tuple(erased), files, size)
