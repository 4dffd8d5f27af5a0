"""The schema's history, and how to bring a database to its newest revision."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine


def config(engine: Engine) -> Config:
    """Return the Alembic configuration for a database."""
    configuration = Config()
    configuration.set_main_option("script_location", str(Path(__file__).parent))
    configuration.attributes["engine"] = engine
    return configuration


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Create or upgrade the schema in one transaction; of two at once the second waits and finds it done."""
    command.upgrade(config(engine), revision)
