"""The health check of the projector, which reports whether events reach the read models."""

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from sqlalchemy.exc import SQLAlchemyError

from api_stub.operations import Health
from event_stream.errors import EventStreamError
from projections.error_classes import describe
from projections.errors import ProjectionsError
from workers.reporting import problems
from workers.reporting.both_servers import NoServerAnswersError
from workers.reporting.status_reader import read_status
from workers.runtime import Runtime


def projector_health(runtime: Runtime) -> Health:
    """Return the health of the deployment. Errors keep events from the read models; warnings do not."""
    try:
        status = read_status(runtime)
    except (EventStreamError, ProjectionsError) as error:
        return Health([str(error)])
    except (RedisConnectionError, RedisTimeoutError):
        return Health(["Redis cannot be reached"])
    except RedisError as error:
        return Health([f"Redis refuses: {describe(error)}"])
    except SQLAlchemyError:
        return Health(["the database cannot be reached"])
    except NoServerAnswersError:
        return Health(["Redis cannot be reached", "the database cannot be reached"])
    return Health(problems.errors(status), problems.warnings(status))
