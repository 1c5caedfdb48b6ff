"""S3 by boto3: a client for any server that speaks it, and what its errors mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from pipeline.errors import UserError
from pipeline.remote.waiting import TryLater

BUSY: Final = (408, 425, 429, 500, 502, 503, 504)
"""Answers of a server that may give another one later."""

MISSING: Final = (404,)
CONFLICT: Final = (409, 412)
_ATTEMPTS: Final = 2
"""Of botocore, for one request; what fails then is tried again from the state of the place."""


def s3_client(seconds: float) -> Any:
    """boto3's client; server and credentials come from the environment, as boto3 reads it.

    Args:
        seconds: How long an answer may take.
    """
    from boto3.session import Session
    from botocore.config import Config

    config = Config(
        connect_timeout=min(15.0, seconds),
        read_timeout=seconds,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        # Servers other than Amazon's do not all know the checksums of its newest protocol.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return Session().client("s3", config=config)


def status_of(error: Any) -> int:
    """The HTTP status of a ClientError; 0 without one.

    Args:
        error: The error.
    """
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(error: Any) -> str:
    """The code of a ClientError, such as NoSuchBucket; empty without one.

    Args:
        error: The error.
    """
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def s3_errors(address: str, verb: str = "write") -> Iterator[None]:
    """Turn what boto3 raises into `TryLater` or an error that a person can act on.

    Args:
        address: Whose server it is.
        verb: What was to be done there.

    Raises:
        TryLater: The server is busy, or cannot be reached.
        UserError: It refuses.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        HTTPClientError,
        NoCredentialsError,
        PartialCredentialsError,
        ResponseStreamingError,
    )
    from botocore.exceptions import (
        ConnectionError as Unreachable,
    )

    login = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    try:
        yield
    except ClientError as error:
        raise _of_status(error, address, login, verb) from None
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise UserError(str(error), where=address, hint=login) from None
    except (HTTPClientError, Unreachable, ResponseStreamingError) as error:
        raise TryLater(str(error)) from None
    except (BotoCoreError, Boto3Error) as error:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, ClientError):
            raise _of_status(cause, address, login, verb) from None
        if isinstance(cause, HTTPClientError | Unreachable):
            raise TryLater(str(cause)) from None
        raise UserError(str(error), where=address) from None


def _of_status(error: Any, address: str, login: str, verb: str) -> Exception:
    status, what = status_of(error), str(error)
    if status in BUSY or status in CONFLICT or code_of(error) in ("SlowDown", "RequestTimeout"):
        after = error.response["ResponseMetadata"].get("HTTPHeaders", {}).get("retry-after", "")
        return TryLater(what, float(after) if after.isdigit() else None)
    if status in (401, 403):
        return UserError(f"the server refuses to let this account {verb}", where=address, why=what,
                         hint=login)  # fmt: skip
    return UserError("the server does not accept this", where=address, why=what)
