"""The service's log: a line of JSON a message, with the id of the request, and nothing that a user typed.

A message of ours is written so that it holds no key, query or raw user id. The message of somebody else's exception may
hold anything, such as the input that it stumbled over: its type and the lines of code are logged instead.
"""

import logging
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

import orjson

from bentos.recommender.current_request import known_request_id
from pipelines.errors import HeadraceError

LogFormat = Literal["json", "text"]
_FIELDS = ("call", "status", "ms", "degraded")
"""What a message may carry beside its words."""
_MAX_FRAMES = 30
_LOGGERS = ("", "bentoml", "uvicorn.error", "circus")
"""Those that BentoML gives handlers of their own."""

_ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def describe_exception(error: BaseException) -> dict[str, Any]:
    """Return the type, the lines of code, and the message where it is ours; the same of what caused it."""
    frames = traceback.extract_tb(error.__traceback__)[-_MAX_FRAMES:]
    found: dict[str, Any] = {
        "type": f"{type(error).__module__}.{type(error).__qualname__}",
        "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }
    if isinstance(error, HeadraceError):
        found["message"] = str(error)
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        found["after"] = describe_exception(cause)
    return found


class JsonLines(logging.Formatter):
    """A message as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        line |= _fields(record)
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = describe_exception(record.exc_info[1])
        return orjson.dumps(line, default=str).decode()


class Text(logging.Formatter):
    """A message as one line to read."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S%z")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and those of an exception."""
        fields = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        record.exc_text = None  # another form may have kept its own there
        line = super().format(record)
        record.exc_text = None
        return f"{line}{' ' if fields else ''}{fields}"

    def formatException(self, ei: _ExceptionInfo) -> str:  # noqa: N802 - logging's name
        """Return type and lines of code."""
        return "" if ei[1] is None else orjson.dumps(describe_exception(ei[1]), option=orjson.OPT_INDENT_2).decode()


def write_logs(kind: LogFormat) -> None:
    """Give the handlers that BentoML has put up our form; call it in the worker."""
    formatter = JsonLines() if kind == "json" else Text()
    for name in _LOGGERS:
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(formatter)
    logging.getLogger("headrace").setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # it warns of each request that is no HTTP


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = {name: vars(record)[name] for name in _FIELDS if name in vars(record)}
    if (request_id := known_request_id()) is not None:
        fields["request_id"] = request_id
    return fields
