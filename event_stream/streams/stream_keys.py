"""The Redis keys of the streams. All are on the streams' server, and all values are bytes.

The braces are part of the key: they are a hash tag for Redis Cluster.

    events:{p}                  stream  one entry per event, with its JSON in the field `event`
    events:{p}:projected        string  the last projected position, `<ms>-<seq>`: a hint for producers that wait
    events:{p}:projected-count  string  the stream's `entries-added` at that position: a hint for the backlog limit
    events:partitions           string  the number of partitions, written by the processes that drain
    events:deployment           string  the id of the deployment that the streams belong to
    events:database             string  the database server that writes for this deployment
"""

PARTITIONS_KEY = "events:partitions"
DEPLOYMENT_KEY = "events:deployment"
DATABASE_KEY = "events:database"


def stream_key(partition: int) -> str:
    """Return the key of a partition's stream."""
    return f"events:{{{partition}}}"


def projected_key(partition: int) -> str:
    """Return the key of a partition's last projected position."""
    return f"events:{{{partition}}}:projected"


def projected_count_key(partition: int) -> str:
    """Return the key of a partition's `entries-added` at its last projected position."""
    return f"events:{{{partition}}}:projected-count"
