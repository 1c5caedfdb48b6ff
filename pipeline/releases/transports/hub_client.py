"""The hub's client with bounded patience: its errors become ours, and it never waits by itself.

The client retries some requests on its own, for as long as a server's `Retry-After` says, and
has no time limit. Here each request has one, and what may be better later is raised as
`TryLater` at once: the caller then reads the state of the repository and goes on from there.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.errors import UserError
from pipeline.remote.waiting import TryLater

if TYPE_CHECKING:
    import httpx2

_BUSY: Final = (408, 425, 429, 500, 502, 503, 504)
_CONFLICT: Final = (409, 412)
_LOGIN: Final = "hf auth login, or HF_TOKEN=... with a token that may write there"


def _client_class(timeout: float) -> type[httpx2.Client]:
    import httpx2

    class PatientClient(httpx2.Client):
        """A client whose requests end in time, and say so in one form."""

        def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
            limits = request.extensions.get("timeout", {})
            limits = {name: min(limits.get(name) or timeout, timeout) for name in _PHASES}
            request.extensions = {**request.extensions, "timeout": limits}
            try:
                response = super().send(request, **options)
            except httpx2.TransportError as error:
                what = str(error) or type(error).__name__
                raise TryLater(f"{_named(request)}: {what}") from error
            if response.status_code in (*_BUSY, *_CONFLICT):
                response.close()
                wait = _retry_after(response)
                raise TryLater(f"{_named(request)}: status {response.status_code}", wait)
            is_write = request.method not in ("GET", "HEAD")
            if is_write and response.status_code in (401, 403):
                response.close()
                raise refused(f"{_named(request)}: status {response.status_code}")
            return response

    return PatientClient


_PHASES: Final = ("connect", "read", "write", "pool")


def _named(request: httpx2.Request) -> str:
    """A request without its query: that of an upload is signed."""
    return f"{request.method} {request.url.copy_with(query=None)}"


def _retry_after(response: httpx2.Response) -> float | None:
    """The seconds that an answer asks callers to wait, in any of the forms that are in use."""
    from huggingface_hub.utils._http import parse_ratelimit_headers

    limit = parse_ratelimit_headers(response.headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    text = response.headers.get("retry-after", "").strip()
    if text.isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - _now(response))


def _now(response: httpx2.Response) -> float:
    """The server's clock where it says so, else ours."""
    try:
        return parsedate_to_datetime(response.headers.get("date", "")).timestamp()
    except ValueError:
        return time.time()


def refused(why: str) -> UserError:
    """The error of a request that the hub does not permit."""
    return UserError("the hub refuses to let this account write there", why=why, hint=_LOGIN)


@contextmanager
def patient_client(timeout: float) -> Iterator[Path]:
    """Let the hub's client wait no longer than this, and cache nothing of what is read back.

    Args:
        timeout: Seconds for each phase of a request.

    Yields:
        The folder of the cache, which goes with the context.

    Raises:
        UserError: The client is in its offline mode.
    """
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils import logging as hub_logging
    from huggingface_hub.utils._http import default_client_factory, hf_request_event_hook
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if constants.is_offline_mode():
        why = "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set"
        raise UserError("the hub cannot be reached in offline mode", why=why, hint="unset it")
    kind = _client_class(timeout)
    set_client_factory(
        lambda: kind(event_hooks={"request": [hf_request_event_hook]}, follow_redirects=True)
    )
    disable_progress_bars()
    verbosity, cache = hub_logging.get_verbosity(), constants.HF_HUB_CACHE
    hub_logging.set_verbosity(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="gristmill-") as folder:
        constants.HF_HUB_CACHE = folder
        try:
            yield Path(folder)
        finally:
            constants.HF_HUB_CACHE = cache
            hub_logging.set_verbosity(verbosity)
            set_client_factory(default_client_factory)


@contextmanager
def translated() -> Iterator[None]:
    """Turn what the client raises into `TryLater` or an error that a person can act on.

    Raises:
        TryLater: The same step may succeed later.
        UserError: It will not.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except (TryLater, UserError):
        raise
    except Exception as error:
        for cause in _causes(error):
            if isinstance(cause, TryLater | UserError):
                raise cause from None
            if isinstance(cause, HfHubHTTPError):
                raise _of_status(cause) from None
            if isinstance(cause, HFValidationError):
                raise UserError(
                    "the hub has no repository of such a name", why=str(cause)
                ) from None
        raise _of_other(error) from None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it: uploads in threads wrap what they meet."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def _of_status(error: Any) -> Exception:
    from huggingface_hub.errors import RevisionNotFoundError

    status, why = error.response.status_code, f"{_named(error.response.request)}: status"
    said = f" ({error.server_message})" if error.server_message else ""
    if isinstance(error, RevisionNotFoundError):
        # Revisions come from the hub's own answers: not all of it knows this one yet.
        return TryLater(f"{why} {status}{said}")
    if status in (401, 403):
        return refused(f"{why} {status}{said}")
    return UserError("the hub does not accept this", why=f"{why} {status}{said}")


def _of_other(error: Exception) -> Exception:
    import httpx2

    if isinstance(error, httpx2.HTTPError | ConnectionError | TimeoutError):
        return TryLater(str(error) or type(error).__name__)
    if isinstance(error, OSError) and error.errno is None:
        return TryLater(_one_line(error))  # the client's own: fewer bytes came than were named
    if isinstance(error, KeyError | json.JSONDecodeError):
        what = "an answer cannot be read: this is no hub, or something between answers for it"
        return UserError(what, hint="check HF_ENDPOINT and the network")
    if isinstance(error, ValueError | OSError):
        return UserError("the hub's client refuses", why=_one_line(error))
    return error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
