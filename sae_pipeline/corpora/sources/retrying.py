"""When to ask the hub again: which errors pass by themselves, how long to wait, and what to tell a user about the others.

Three layers could try again. The hub's client repeats a single request, a few times and quickly, which is right for a
hiccup. The loop of the datasets library is switched off: it does not know where to go on from. What is left is decided
here, and the stream is opened again where its last row arrived. Errors are known by the names of their classes, because
their modules are slow to import and have moved between versions.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

logger = logging.getLogger(__name__)

LIBRARIES = ("huggingface_hub.utils._http", "datasets.utils.file_utils")
"""Loggers that tell every single request that is repeated: a hub that is down would be a hundred lines."""

TRIES = 6
"""Attempts without any progress after which an exchange with the hub is given up."""

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
"""Seconds between attempts: doubled each time, the same in every run."""

LONGEST_ASKED_PAUSE = 600.0
"""Seconds waited at most because the hub asks to (Retry-After); its limits are counted over five minutes."""

PASSING_STATUSES = frozenset({408, 425, 429})
"""Statuses below 500 that pass by themselves."""

PASSING = frozenset({"TransportError", "ConnectionError", "TimeoutError", "LocalEntryNotFoundError"})
"""Errors of a connection rather than of a request. The last one means that the hub was not reached to ask for a file."""

REFUSALS = frozenset({"RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError", "DatasetNotFoundError", "FileNotFoundError", "ValueError", "ImportError"})  # fmt: skip
"""Errors that say what is wrong with the request or the data: asking again would give the same answer."""

DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS})


class Attempts:
    """Counts the attempts at one thing that broke without any progress, and waits between them."""

    def __init__(self) -> None:
        self.broken = 0
        for library in LIBRARIES:
            logging.getLogger(library).setLevel(logging.ERROR)

    def progressed(self) -> None:
        """Something arrived: the count starts again."""
        self.broken = 0

    def again(self, error: Exception) -> bool:
        """Wait before the next attempt; False, at once, when ``error`` will not pass or there have been enough attempts."""
        self.broken += 1
        if is_refusal(error) or self.broken >= TRIES:
            return False
        pause = max(min(FIRST_PAUSE * 2 ** (self.broken - 1), LONGEST_PAUSE), asked_pause(error))
        logger.warning("the hub broke off (%s); attempt %d of %d follows in %.0f s", reason(error), self.broken + 1, TRIES, pause)
        time.sleep(pause)
        return True


def is_refusal(error: Exception) -> bool:
    """Whether asking again would give the same answer.

    The libraries raise inside the handlers of earlier errors: a connection that breaks after a file was found to be
    missing has that 404 as its context. The outermost error that a connection or an answer has made therefore decides.
    """
    for cause in _causes(error):
        status = _status(cause)
        if status is not None:
            return status < 500 and status not in PASSING_STATUSES
        if isinstance(cause, OSError) and cause.errno in DISK:
            return True
        if _kinds(cause) & PASSING:
            return False
    return bool(_kinds(error) & REFUSALS)


def asked_pause(error: Exception) -> float:
    """Seconds that the hub asks to wait (Retry-After), at most :data:`LONGEST_ASKED_PAUSE`; 0 where it does not say."""
    for cause in _causes(error):
        asked = getattr(getattr(cause, "response", None), "headers", {}).get("Retry-After", "").strip()
        if asked.isdigit():
            return min(float(asked), LONGEST_ASKED_PAUSE)
        if asked:
            try:
                return min(max(parsedate_to_datetime(asked).timestamp() - time.time(), 0.0), LONGEST_ASKED_PAUSE)
            except ValueError:
                continue  # neither seconds nor a date: not said
    return 0.0


def reason(error: Exception) -> str:
    """The first line of an error that says something: hub errors open with a bare status line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in lines if "Client Error" not in line), lines[0]).rstrip(".")


def advice(error: Exception) -> str:
    """What a user can do about an error of the datasets or huggingface_hub library."""
    causes = list(_causes(error))
    if any(isinstance(cause, OSError) and cause.errno in DISK for cause in causes):
        return "make room or give access, or set HF_HOME to a folder that can be written"
    if any("GatedRepoError" in _kinds(cause) or _status(cause) in (401, 403) for cause in causes):
        return "accept its terms on the hub and log in with `hf auth login`, or correct 'dataset'"
    if not is_refusal(error):
        return "connect to the network (or unset HF_HUB_OFFLINE), or use a local folder"
    if _kinds(error) & {"ArrowInvalid", "UnicodeDecodeError"}:
        return "a file of the data set is damaged; choose another 'revision' or 'config'"
    return "correct 'dataset', 'config', 'split' or 'revision'"


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _kinds(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None
