"""Where input files lie: which files an address means now, and their bytes.

S3 is read by boto3, as publishing writes it (s3fs pins another botocore); the web by httpx2;
everything else through fsspec: the hub by the file system of huggingface_hub, others by the
package that fsspec names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO, Final, NamedTuple

from pipeline.errors import Exit, UserError
from pipeline.remote.addresses import Address
from pipeline.remote.s3 import MISSING, s3_client, s3_errors, status_of
from pipeline.remote.waiting import TryLater

SECONDS: Final = 60.0
"""How long a server may be silent."""

_BLOCK: Final = 1 << 20
_VERSIONS: Final = ("lfs", "blob_id", "ETag", "etag", "md5Hash", "md5", "content_md5", "generation",
                    "LastModified", "last_modified", "mtime", "created")  # fmt: skip
"""What file systems of fsspec say of a file that changes with its content, best first."""


class RemoteFile(NamedTuple):
    """A file as its place has it now.

    Attributes:
        url: Where it is.
        name: Its name.
        bytes: Its size; None where the place does not say.
        version: Another text whenever its content is another one.
        write: Writes its bytes to a file.
    """

    url: str
    name: str
    bytes: int | None
    version: str
    write: Callable[[BinaryIO], None]


def files_at(address: Address) -> list[RemoteFile]:
    """The files that an address means now, by url; empty where there is none.

    Args:
        address: The address.

    Raises:
        TryLater: The server is busy, or cannot be reached.
        UserError: It refuses, or a package is missing.
    """
    if address.scheme == "s3":
        with s3_errors(address.url, "read"):
            return sorted(_objects(address))
    if address.scheme in ("http", "https"):
        assert address.sha256 is not None, "checked with the recipe"
        write = partial(_write_page, address.url)
        return [RemoteFile(address.url, address.name, None, address.sha256, write)]
    with _file_system_errors(address):
        return sorted(_of_file_system(address))


# S3


def _objects(address: Address) -> Iterator[RemoteFile]:
    client = s3_client(SECONDS)
    bucket, _, key = address.rest.partition("/")
    exact = _head(client, bucket, key)
    if exact is not None:
        yield _object(client, bucket, key, exact["ContentLength"], exact["ETag"])
    elif address.is_pattern:
        from fsspec.utils import glob_translate

        matches = re.compile(glob_translate(key)).match
        prefix = re.split(r"[*?\[]", key, maxsplit=1)[0]
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Contents", []):
                if matches(entry["Key"]) and not entry["Key"].endswith("/"):
                    yield _object(client, bucket, entry["Key"], entry["Size"], entry["ETag"])


def _head(client: Any, bucket: str, key: str) -> Any:
    try:
        return client.head_object(Bucket=bucket, Key=key)
    except client.exceptions.ClientError as error:
        if status_of(error) in MISSING:
            return None
        raise


def _object(client: Any, bucket: str, key: str, size: int, etag: str) -> RemoteFile:
    url = f"s3://{bucket}/{key}"
    write = partial(_write_object, client, bucket, key, etag, url)
    return RemoteFile(url, key.rpartition("/")[2], size, etag, write)


def _write_object(client: Any, bucket: str, key: str, etag: str, url: str, to: BinaryIO) -> None:
    with s3_errors(url, "read"):
        # Some servers ignore the condition; then the sizes, or the next look at it, will differ.
        body = client.get_object(Bucket=bucket, Key=key, IfMatch=etag)["Body"]
        for part in body.iter_chunks(_BLOCK):
            to.write(part)


# The web


def _write_page(url: str, to: BinaryIO) -> None:
    import httpx2

    try:
        with httpx2.stream(
            "GET",
            url,
            timeout=SECONDS,
            follow_redirects=True,
            headers={"Accept-Encoding": "identity"},
        ) as response:
            if response.status_code in (408, 425, 429) or response.status_code >= 500:
                raise TryLater(f"the server answered {response.status_code}")
            if not response.is_success:
                what = f"the server answered {response.status_code}"
                raise UserError(what, where=url, code=_lost(response.status_code))
            for part in response.iter_raw(
                _BLOCK
            ):  # as it is stored: its digest is that of the file
                to.write(part)
    except httpx2.HTTPError as error:
        raise TryLater(str(error) or type(error).__name__) from None
    except httpx2.InvalidURL as error:
        raise UserError(str(error), where=url) from None


def _lost(status: int) -> Exit:
    return Exit.SOURCE_LOST if status in (404, 410) else Exit.MISTAKE


# Everything else


def _of_file_system(address: Address) -> Iterator[RemoteFile]:
    from fsspec.core import url_to_fs

    system, path = url_to_fs(address.url)
    system.invalidate_cache()
    exists = not address.is_pattern and system.exists(path)
    for each in system.glob(path) if address.is_pattern else [path] * exists:
        details = system.info(each)
        if details["type"] == "file":
            yield _entry(system, address, each, details)


def _entry(system: Any, address: Address, path: str, details: dict[str, Any]) -> RemoteFile:
    version = next((str(details[key]) for key in _VERSIONS if details.get(key)), "")
    url = f"{address.scheme}://{path.removeprefix(address.scheme + '://')}"
    write = partial(_write_file, system, path, address)
    return RemoteFile(url, path.rpartition("/")[2], details.get("size"), version, write)


def _write_file(system: Any, path: str, address: Address, to: BinaryIO) -> None:
    with _file_system_errors(address), system.open(path, "rb", block_size=16 * _BLOCK) as source:
        while part := source.read(16 * _BLOCK):
            to.write(part)


@contextmanager
def _file_system_errors(address: Address) -> Iterator[None]:
    """Turn what a file system raises into `TryLater` or an error that a person can act on.

    Raises:
        TryLater: The server is busy, or cannot be reached.
        UserError: It refuses, or a package is missing.
    """
    try:
        yield
    except (UserError, TryLater):
        raise
    except (ImportError, ValueError) as error:  # no package for it; no such scheme
        hint = "its file can be copied here, and named by its path"
        raise UserError(_line(error), where=address.url, hint=hint) from None
    except FileNotFoundError as error:
        raise UserError(f"it is not there ({_line(error)})", where=address.url,
                        code=Exit.SOURCE_LOST) from None  # fmt: skip
    except PermissionError as error:
        raise UserError("the server refuses", where=address.url, why=_line(error)) from None
    except Exception as error:  # the errors of file systems have no common base
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise UserError("the server refuses", where=address.url, why=_line(error)) from None
        raise TryLater(_line(error)) from None


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
