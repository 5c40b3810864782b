"""What the service says about itself to those who run it: its log."""

import logging
import re
import sys
from typing import Any

import structlog

from service.errors import OperatorError

_TRACEPARENT = re.compile("(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(?P<more>-.*)?")


def trace_of(traceparent: str | None) -> dict[str, str]:
    """The place in a trace that a request says it has (W3C Trace Context): nothing where it says none, or says it wrongly."""
    named = _TRACEPARENT.fullmatch(traceparent or "")
    if named is None or (named["more"] is not None and named[0].startswith("00")):
        return {}
    return {"trace_id": named[1], "parent_id": named[2]}


def configure_logging(log_format: str) -> None:
    """Everything that is logged, by us and by the libraries, goes to stderr in one form. OperatorError for a form there is not."""
    if log_format not in ("console", "json"):
        raise OperatorError(f"LEDGER_LOG_FORMAT is {log_format!r}, and should be console or json.")
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Tracebacks without the values of variables: those are contracts, and keys.
    last: list[Any] = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)]
    if log_format == "json":
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        last = [structlog.processors.ExceptionRenderer(tracebacks), structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler()
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[remove, *last]))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
