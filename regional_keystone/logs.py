"""How every process of ours logs: an event name and its fields, to standard error; as JSON or for people."""

import logging
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import structlog

from regional_keystone.settings import Default

_SECRET = ("password", "token", "secret", "key", "authorization")


def configure(settings: Default, **facts: int) -> None:
    """Set up structlog and the standard library's logging, once, at the start of a process.

    `facts` are told with every event: which worker it is, say.
    """

    def told(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {**facts, **event}

    level = logging.DEBUG if settings.debug else logging.INFO
    render: Any = (
        structlog.processors.JSONRenderer() if settings.log_json else structlog.dev.ConsoleRenderer(colors=False)
    )
    structlog.configure(
        processors=[
            told,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _masked,
            structlog.processors.format_exc_info,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )


def where(failure: BaseException) -> str:
    """The last frames of a failure, without values: what an exception says may hold secrets."""
    frames = traceback.extract_tb(failure.__traceback__)[-3:]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))


def _masked(logger: object, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """The last guard: a field that is named like a secret never shows its value."""
    del logger, method
    return {name: "***" if name in _SECRET else value for name, value in event.items()}
