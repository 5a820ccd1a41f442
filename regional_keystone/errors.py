"""Every refusal a caller can be told about, each with its HTTP status.

One family, raised anywhere and rendered once, by `web`; drivers' own errors never leave their adapter.
"""

import asyncio
from collections.abc import Coroutine
from http import HTTPStatus
from typing import Any, ClassVar


class IdentityError(Exception):
    """A refusal with the status and the sentence that a caller is told, in Keystone's error body."""

    status: ClassVar[int] = 500
    default: ClassVar[str] = "An unexpected error prevented the server from fulfilling your request."

    def __init__(self, message: str = "", *, retry_after_s: int | None = None) -> None:
        self.message = message or self.default
        self.retry_after_s = retry_after_s
        super().__init__(self.message)

    @property
    def title(self) -> str:
        """The status' standard phrase, as the error body's `title`."""
        return HTTPStatus(self.status).phrase


class Invalid(IdentityError):
    """The request itself is wrong: what was sent cannot mean anything here."""

    status = 400
    default = "The request you have made is invalid."


def expecting(attribute: str, target: str) -> Invalid:
    """The refusal of a request in which something was to be found and is not, in upstream's words."""
    return Invalid(
        f"Expecting to find {attribute} in {target}. The server could not comply with the request since it is either "
        "malformed or otherwise incorrect. The client is assumed to be in error."
    )


class Unauthenticated(IdentityError):
    """No proof of who asks; deliberately silent on which half of it was wrong."""

    status = 401
    default = "The request you have made requires authentication."


class Forbidden(IdentityError):
    """Known who asks, and not allowed."""

    status = 403
    default = "You are not authorized to perform the requested action."


def not_allowed(what: str) -> Forbidden:
    """The refusal of an action, which names it, in upstream's words."""
    return Forbidden(f"You are not authorized to perform the requested action: {what}.")


class NotFound(IdentityError):
    """What was named is not there, or not for this caller to know of."""

    status = 404
    default = "The resource could not be found."


class MethodNotAllowed(IdentityError):
    """The path exists; the method does not. `allow` lists those that do."""

    status = 405
    default = "The method is not allowed for the requested URL."

    def __init__(self, allow: tuple[str, ...]) -> None:
        super().__init__()
        self.allow = allow


class Conflict(IdentityError):
    """Something with that name, or in that state, is in the way."""

    status = 409
    default = "A conflict occurred."


class Gone(IdentityError):
    """It was served once and will not be again."""

    status = 410
    default = "The service you have requested is no longer available on this server."


class TooLarge(IdentityError):
    """The body is over the limit."""

    status = 413
    default = "Request is too large."


class Unavailable(IdentityError):
    """It cannot be decided now: a dependency is down or knowledge is too old. Never an empty answer instead."""

    status = 503
    default = "The service is temporarily unable to decide this; try again."

    def __init__(self, message: str = "", *, retry_after_s: int = 1) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class Unknown(Unavailable):
    """It may or may not have been done: whole or not at all, and it shows when it is read."""

    default = "It is not known whether this was done; look before you try again."


class StoreRefused(Exception):
    """A store must not be used as it is: an operator has to act first. The message names the file and the cure."""


class StoreDamaged(StoreRefused):
    """The file's content is not what was written. A replica can be rebuilt from a controller, a log cannot."""


async def outlived(work: Coroutine[Any, Any, None], *errors: type[Exception]) -> str | None:
    """How work ended, in a line to log, if in one of these errors; None if in none. For whoever goes on after it.

    Raises CancelledError where the caller was to end meanwhile, however work took that. It runs in a task of its own:
    until Python 3.13, a group one of whose tasks fails while it ends leaves a count of cancellations behind, or forgets
    one (cpython gh-116720), and the caller has to know its own from those.
    """
    caller, why = asyncio.current_task(), None
    try:
        await asyncio.create_task(work)
    except* errors as group:
        why = "; ".join(f"{type(one).__name__}: {one}" for one in _leaves(group))[:200]
    if caller is not None and caller.cancelling():
        raise asyncio.CancelledError
    return why


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for one in group.exceptions:
        found += _leaves(one) if isinstance(one, BaseExceptionGroup) else [one]
    return found
