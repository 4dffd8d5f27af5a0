"""How every process tells what it decides: one line each on stderr, JSON unless a person watches on a terminal."""

import logging
import sys
from typing import Any

import structlog
from structlog.contextvars import merge_contextvars
from structlog.stdlib import ProcessorFormatter


def configure() -> None:
    """Send the lines of this process, and what libraries warn of, to stderr.

    A line carries what is bound to the work that it is about, such as the `drain`. The variables of a traceback are
    never shown: they hold what events and requests hold.
    """
    to_a_person = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    rendered: Any = to_a_person if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    told: list[Any] = [
        merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*told, structlog.processors.format_exc_info, rendered],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    finished = [ProcessorFormatter.remove_processors_meta, structlog.processors.format_exc_info, rendered]
    handler.setFormatter(ProcessorFormatter(processors=finished, foreign_pre_chain=told))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


def configure_once() -> None:
    """Do so in a process that another program has started, such as `rq worker`."""
    if not structlog.is_configured():
        configure()
