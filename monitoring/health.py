"""The health check of the projector, which reports whether events reach the read models."""

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from sqlalchemy.exc import SQLAlchemyError

from api_stub.operations import Health
from event_stream.errors import EventStreamError
from projections import schema
from projections.errors import ProjectionsError
from workers.reporting import problems
from workers.reporting.status_reader import read_status
from workers.runtime import Runtime


def projector_health(runtime: Runtime) -> Health:
    """Return the health of the deployment. Errors keep events from the read models; warnings do not."""
    try:
        with runtime.reader.connect() as connection:
            schema.check(connection)
        status = read_status(runtime)
    except (EventStreamError, ProjectionsError) as error:
        return Health([str(error)])
    except (RedisConnectionError, RedisTimeoutError):
        return Health(["Redis cannot be reached"])
    except RedisError as error:
        return Health([f"Redis refuses: {type(error).__name__}"])
    except SQLAlchemyError:
        return Health(["the database cannot be reached"])
    return Health(problems.errors(status), problems.warnings(status))
