"""The registry of reads: a new read is one file and one line here.

Routes, metrics and the OpenAPI document derive from it.
"""

from typing import Any

from api_stub.routes import activity, projects, stats, usage
from api_stub.routes.read import Read

READS: tuple[Read[Any, Any], ...] = (stats.read, activity.read, projects.read, usage.read)
