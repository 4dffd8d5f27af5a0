"""Status: the state of the deployment, as `projector status`, the health check, the metrics and the doctor see it.

The fields and their descriptions are the JSON output of `projector status --json` (docs/reference/status.md).
"""

from pydantic import BaseModel, Field

from workers.deployment import Deployment
from workers.maintenance.verify_results import VerificationSummary
from workers.telemetry.dead_letter_sources import DeadLetterSource
from workers.telemetry.progress import STALLED_AFTER_S, BatchFailure


class PartitionStatus(BaseModel):
    """One partition. added = read + in_flight + lost, and read = applied + duplicates + dead_lettered (G1)."""

    partition: int = Field(description="Partition number.")
    epoch: int = Field(
        description="Number of the stream's epoch, from 0; increases when the stream was deleted, replaced or restored."
    )
    position: str = Field(description="Checkpoint: id of the last entry that was read, `<ms>-<seq>`.")
    end_position: str | None = Field(description="Id of the stream's last entry; null if the stream is empty.")
    lag_entries: int = Field(description="Same as `in_flight`.")
    lag_s: float = Field(
        description="Age in seconds of the oldest entry after the checkpoint, but at least the time for which entries"
        " have waited while the checkpoint did not move; 0 if no entry waits."
    )
    id_ahead_s: float = Field(
        description="Seconds by which the stream's last id is ahead of the database's clock; 0 if that is at most"
        " PROJECTOR_MAX_CLOCK_SKEW_S."
    )
    ids_exhausted: bool = Field(
        description="Whether the stream has given the largest possible id, so that it accepts no more entries."
    )
    added: int = Field(description="Entries ever appended: read + in_flight + lost.")
    read: int = Field(description="Entries ever read: applied + duplicates + dead_lettered.")
    applied: int = Field(description="Entries whose event was new and was applied.")
    duplicates: int = Field(description="Entries that repeat an accepted event; they change nothing.")
    dead_lettered: int = Field(description="Entries that can never be applied and became dead letters.")
    lost: int = Field(
        description="Entries that Redis lost before they were read: trimmed, evicted, or restored from an older state."
    )
    lost_not_acknowledged: int = Field(
        description="Those of `lost` that no operator has acknowledged; health is judged by them."
    )
    in_flight: int = Field(description="Entries appended and not yet read.")
    stalled: bool = Field(description="Whether entries have waited for more than 30 s while none was projected.")
    failure: BatchFailure | None = Field(description="Failure of the last batch; null once a batch is committed.")


class ProjectionStatus(BaseModel):
    """A projection, and the numbers of tenants whose rows have another version or lack events."""

    name: str = Field(description="Name of the projection.")
    version: int | None = Field(description="Version in this release; null if only a newer release has the projection.")
    rebuild_pending_tenants: int = Field(
        description="Tenants whose rows have an older version or lack events, so a rebuild is pending."
    )
    newer_version_tenants: int = Field(
        description="Tenants whose rows have a newer version; this release must not change them."
    )


class ProcessStatus(BaseModel):
    """A worker or a dispatcher. Its main loop sends the heartbeat, so a process that hangs is noticed."""

    name: str = Field(description="Name of the process; contains its host and process id.")
    host: str = Field(description="Host that the process runs on.")
    pid: int = Field(description="Process id on that host.")
    state: str = Field(description="State of a worker (`idle`, `busy`, …) or of a dispatcher (`sweeping`).")
    heartbeat_age_s: float = Field(description="Seconds since the last heartbeat; more than 30 is too long.")

    @property
    def stalled(self) -> bool:
        """Whether the last heartbeat is too old."""
        return self.heartbeat_age_s > STALLED_AFTER_S


class Status(BaseModel):
    """The state of the deployment at one moment; workers/reporting/problems.py finds what is wrong in it."""

    deployment: Deployment = Field(description="Whether the database and Redis belong together.")
    partitions: list[PartitionStatus] = Field(description="All partitions, by number.")
    read_from_standby: bool = Field(
        description="Whether DATABASE_URL leads to a standby, so that the numbers of the database are as old as its"
        " copy."
    )
    open_dead_letters: dict[str, int] = Field(
        description="Open dead letters by reason; reasons without any are left out."
    )
    redis_refusal: str | None = Field(description="What Redis answers to a write; null if it accepts writes.")
    dead_letters_not_kept: dict[str, int] = Field(
        description="Those of `open_dead_letters` that are only counted, by reason: older ones of a tenant with more"
        " than PROJECTOR_DEAD_LETTERS_MAX."
    )
    dead_letter_sources: list[DeadLetterSource] = Field(
        description="Ten sources with the most dead letters in the last ten minutes, by partition."
    )
    unread_streams: dict[str, int] = Field(
        default_factory=dict,
        description="Entries in streams that look like a partition's and are not, by key; nothing reads them.",
    )
    queue_length: int = Field(description="Jobs that wait for a worker.")
    workers: list[ProcessStatus] = Field(description="All known workers, by name.")
    dispatchers: list[ProcessStatus] = Field(description="All known dispatchers, by name.")
    breaker_open_reason: str | None = Field(description="Why the circuit breaker is open; null if it is closed.")
    projections: list[ProjectionStatus] = Field(description="All projections, in the order of the registry.")
    verification: VerificationSummary = Field(
        description="Result of comparing the read models with the event log in the background."
    )
