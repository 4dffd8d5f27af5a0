"""Configures logging: one line per event on stderr, as JSON unless stderr is a terminal."""

import logging
import sys
from typing import Any

import structlog
from structlog.contextvars import merge_contextvars
from structlog.stdlib import ProcessorFormatter


def configure() -> None:
    """Send the log events of this process and the warnings of libraries to stderr.

    A line includes the values bound to the current work, such as `drain`. Tracebacks never show variables, since these
    may hold data of events and requests.
    """
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    renderer: Any = console if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    shared: list[Any] = [
        merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    processors = [ProcessorFormatter.remove_processors_meta, structlog.processors.format_exc_info, renderer]
    handler.setFormatter(ProcessorFormatter(processors=processors, foreign_pre_chain=shared))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


def configure_once() -> None:
    """Configure logging unless it is configured, for processes that another program starts, such as `rq worker`."""
    if not structlog.is_configured():
        configure()
