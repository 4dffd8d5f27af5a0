"""The bugs to plant: for each promise the mistakes that would break it, and the tests that must notice.

A bug replaces `old`, which stands exactly once in its file, by `new`. Should a bug survive, a test is missing; should it
no longer apply, the code has moved on and the bug must follow it.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutant:
    """One bug. `promise` is G1 … G8, or the section of the contract that it breaks."""

    name: str
    promise: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


_OF_ONE_VERSION = "tests/integration/test_projection_versions.py::test_"
_GONE_BACK = "tests/faults/test_database_gone_back.py::test_"
_DRAIN = "tests/integration/test_drain.py::test_"
_RINGING = "tests/integration/test_ringing.py::test_"
_STREAM = "tests/integration/test_stream.py::test_"
_READS = "tests/integration/test_reads.py::test_"
_CONTRACT = "tests/integration/test_projections_contract.py::test_"
_COMMANDS = "tests/integration/test_commands.py::test_"
_EVENTS = "tests/unit/test_events.py::test_"
_SOAK = "tests/faults/test_soak.py::test_"
_FOLDS = "tests/unit/test_folds.py::test_"
_FAULTS = "tests/unit/test_faults.py::test_"
_COALESCE = "tests/unit/test_coalesce.py::test_"
_HEALTH = "tests/faults/test_health.py::test_"
_METRICS = "tests/integration/test_metrics.py::test_"
_OVERVIEW = "tests/integration/test_overview.py::test_"
_REBUILD = "tests/integration/test_rebuild.py::test_"
_VERIFY = "tests/integration/test_verify.py::test_"
_VERSIONS = "tests/integration/test_event_versions.py::test_"

NOTHING_LOST = (
    Mutant(
        "the checkpoint moves in a transaction of its own",
        "G1",
        "projections/apply.py",
        "    checkpoint.advance(connection, after)\n",
        "    connection.commit()\n    checkpoint.advance(connection, after)\n    connection.commit()\n",
        (f"{_DRAIN}a_transaction_that_fails_at_its_very_end_leaves_nothing_behind",),
    ),
    Mutant(
        "letters are parked in a transaction of their own",
        "G1",
        "projections/apply.py",
        "    dead_letters.park(connection, letters)\n",
        "    with connection.engine.begin() as other:\n        dead_letters.park(other, letters)\n",
        (f"{_DRAIN}a_transaction_that_fails_at_its_very_end_leaves_nothing_behind[postgresql]",),
    ),
    Mutant(
        "what was read ahead is applied wherever the checkpoint is",
        "G1",
        "workers/intake.py",
        "ahead is not None and ahead.place == _place_of(expected) and",
        "ahead is not None and",
        (f"{_DRAIN}what_was_read_ahead_is_thrown_away_if_the_batch_before_it_fails",),
    ),
    Mutant(
        "a worker that was killed for its memory holds two batches at once from its first entry on",
        "G8",
        "workers/pace.py",
        "self.count > ENTRIES_FIRST and not self.failed_in_a_row",
        "True",
        (f"{_DRAIN}nothing_is_read_ahead_where_two_batches_may_be_too_many_for_the_memory",),
    ),
    Mutant(
        "the hint is published before the commit",
        "G1",
        "workers/drain.py",
        "        with meanwhile(self.intake.go_on):\n",
        "        if batch.reading.entries:\n"
        "            early = Progress(batch.reading.entries[-1].position, expected.entries_added())\n"
        "            self.runtime.stream.publish_projected(self.partition, early)\n"
        "        with meanwhile(self.intake.go_on):\n",
        (f"{_DRAIN}a_transaction_that_fails_at_its_very_end_leaves_nothing_behind",),
    ),
    Mutant(
        "duplicates are not counted",
        "G1",
        "projections/checkpoint.py",
        "duplicates=self.duplicates + duplicates",
        "duplicates=self.duplicates",
        (f"{_DRAIN}a_repeat_of_an_applied_event_changes_nothing",),
    ),
    Mutant(
        "what Redis lost is not counted at a stream's end",
        "G1",
        "projections/checkpoint.py",
        "lost = self.lost + max(0, added - self.read - self.lost, self._seen_unread())",
        "lost = self.lost + max(0, self._seen_unread())",
        (f"{_DRAIN}a_stream_emptied_unread_is_counted_at_once",),
    ),
    Mutant(
        "what was seen is not remembered",
        "G1",
        "projections/apply.py",
        "        at = at.seeing(reading.end)\n",
        "        pass\n",
        (f"{_DRAIN}what_was_seen_and_is_gone_is_counted_whatever_happened_to_the_stream",),
    ),
    Mutant(
        "what was seen is remembered anew before it is passed",
        "G1",
        "projections/apply.py",
        "if passes_seen or at.has_seen(reading.other):",
        "if True:",
        (f"{_DRAIN}what_was_seen_and_is_gone_is_counted_whatever_happened_to_the_stream",),
    ),
    Mutant(
        "trimmed to the stream's end",
        "G1",
        "workers/dispatcher.py",
        "before=min(then.position, current.position))",
        "before=self.runtime.stream.ends()[then.partition].position or then.position)",
        (f"{_RINGING}trimming_stays_a_minute_behind_the_committed_checkpoint",),
    ),
    Mutant(
        "trimmed to where the checkpoint is, not where it was",
        "G1",
        "workers/dispatcher.py",
        "before=min(then.position, current.position))",
        "before=current.position)",
        (f"{_RINGING}trimming_stays_a_minute_behind_the_committed_checkpoint",),
    ),
    Mutant(
        "trimmed past a database that was set back",
        "G1",
        "workers/dispatcher.py",
        "before=min(then.position, current.position))",
        "before=then.position)",
        (f"{_GONE_BACK}entries_that_it_must_read_again_are_not_trimmed_however_long_it_takes",),
    ),
    Mutant(
        "a dispatcher that slept trims whatever is there now",
        "G1",
        "event_stream/stream.py",
        "    if part ~= ARGV[i + 2] then return 0 end\n",
        "    if part == nil then return 0 end\n",
        (f"{_STREAM}trimming_leaves_a_stream_alone_that_holds_another_entry",),
    ),
    Mutant(
        "trimmed after six seconds, not sixty",
        "G1",
        "workers/dispatcher.py",
        "TRIM_BEHIND_S = 60.0",
        "TRIM_BEHIND_S = 6.0",
        (f"{_RINGING}trimming_stays_a_minute_behind_the_committed_checkpoint",),
    ),
    Mutant(
        "another stream is trimmed by the old one's checkpoint",
        "G1",
        "workers/dispatcher.py",
        "if before > START and at.is_at(entries):",
        "if before > START and entries:",
        (f"{_RINGING}nothing_of_another_stream_is_trimmed",),
    ),
    Mutant(
        "the first entry's digest is not compared",
        "G1",
        "projections/checkpoint.py",
        "entries[0].position == self.position and entries[0].digest() == self.digest",
        "entries[0].position == self.position",
        (f"{_DRAIN}a_stream_restored_older_is_noticed_even_when_its_ids_overtake",),
    ),
    Mutant(
        "reading begins after the checkpoint, not at it",
        "G1",
        "event_stream/stream.py",
        "min=str(position), count=count",
        'min=f"({position}", count=count',
        (f"{_STREAM}reading_starts_at_the_position_itself_and_knows_the_end",),
    ),
    Mutant(
        "positions compare as text",
        "G1",
        "event_stream/stream.py",
        "[entry for entry in self.entries if entry.position > position]",
        "[entry for entry in self.entries if str(entry.position) > str(position)]",
        (f"{_STREAM}what_lies_behind_a_position_is_told_by_numbers_not_by_text",),
    ),
    Mutant(
        "an outage is taken for poison",
        "G1",
        "projections/faults.py",
        "return Fault.OURS if isinstance(original, _OURS) else Fault.WORLD",
        "return Fault.OURS if isinstance(error, DBAPIError) else Fault.WORLD",
        (f"{_DRAIN}a_database_that_is_away_parks_nothing",),
    ),
    Mutant(
        "a full disk under a fold is taken for poison",
        "G1",
        "projections/faults.py",
        "_OF_THE_WORLD = (MemoryError, OSError)",
        "_OF_THE_WORLD = (MemoryError,)",
        (f"{_DRAIN}the_worlds_errors_park_nothing_even_out_of_a_fold",),
    ),
    Mutant(
        "a job's time limit within a fold is taken for poison",
        "G1",
        "projections/faults.py",
        "isinstance(cause, _OF_THE_WORLD + interruptions)",
        "isinstance(cause, _OF_THE_WORLD)",
        (f"{_FAULTS}everything_else_is_the_world_being_away",),
    ),
)

EXACTLY_ONCE = (
    Mutant(
        "the claim locks nothing",
        "G2",
        "projections/checkpoint.py",
        ".order_by(table.c.partition).with_for_update()",
        ".order_by(table.c.partition)",
        (f"{_DRAIN}a_claim_is_held_until_the_transaction_ends",),
    ),
    Mutant(
        "SQLite's lock is taken with the first write",
        "G2",
        "projections/store.py",
        "BEGIN IMMEDIATE",
        "BEGIN",
        (f"{_DRAIN}a_writer_holds_sqlites_lock_from_the_start_of_its_transaction",),
    ),
    Mutant(
        "the claim does not compare the position",
        "G2",
        "projections/checkpoint.py",
        "if current != expected:",
        "if current.epoch != expected.epoch:",
        (f"{_DRAIN}the_checkpoint_is_compared_under_the_lock",),
    ),
    Mutant(
        "the claim does not compare the epoch",
        "G2",
        "projections/checkpoint.py",
        "if current != expected:",
        "if current.position != expected.position:",
        (f"{_DRAIN}the_same_position_of_another_epoch_is_another_place",),
    ),
    Mutant(
        "the claim does not compare the counters",
        "G1",
        "projections/checkpoint.py",
        "if current != expected:",
        "if (current.epoch, current.position) != (expected.epoch, expected.position):",
        (f"{_DRAIN}of_two_who_settle_a_loss_at_the_same_place_one_is_too_late",),
    ),
    Mutant(
        "everything is taken as new",
        "G2",
        "projections/event_log.py",
        "body = known.get(identity)",
        "body = None",
        (f"{_DRAIN}a_repeat_of_an_applied_event_changes_nothing",),
    ),
    Mutant(
        "repeats within a batch are taken as new",
        "G2",
        "projections/event_log.py",
        "            known[identity] = event.body\n",
        "",
        (f"{_DRAIN}a_repeat_within_a_batch_and_in_another_spelling_is_a_duplicate",),
    ),
    Mutant(
        "an event of a stranger's partition is accepted",
        "G2",
        "event_stream/types.py",
        "if right != arrival.partition:",
        "if right >= arrival.partitions:",
        (f"{_DRAIN}bad_entries_are_parked_with_their_reason_and_stop_nobody",),
    ),
    Mutant(
        "numbers in the log have gaps",
        "G2",
        "projections/apply.py",
        "last_number=batch.start.applied",
        "last_number=batch.start.read",
        (f"{_DRAIN}the_log_is_numbered_densely_per_partition",),
    ),
)

CONVERGENT = (
    Mutant(
        "equal times are decided by who comes first",
        "G3",
        "projections/facts.py",
        "if stamp > self.stamp else self",
        "if stamp[0] > self.stamp[0] else self",
        (f"{_FOLDS}equal_times_are_decided_by_the_event_id",),
    ),
    Mutant(
        "the last to arrive wins",
        "G3",
        "projections/facts.py",
        "return Fact(value, stamp) if stamp > self.stamp else self",
        "return Fact(value, stamp)",
        (f"{_FOLDS}the_latest_of_created_and_deleted_decides_whether_a_project_exists",),
    ),
    Mutant(
        "who was removed is forgotten, and revived by a late event",
        "G3",
        "projections/facts.py",
        "else Members({**self.by_id, member: after})",
        "else Members({id_: fact for id_, fact in {**self.by_id, member: after}.items() if fact.value})",
        (f"{_FOLDS}memberships_count_distinct_present_ids",),
    ),
    Mutant(
        "day buckets are pruned by the clock",
        "G3",
        "projections/analysis_trend.py",
        "oldest = max(by_day) - DAYS_KEPT + 1",
        'oldest = int(__import__("time").time()) // 86_400 - DAYS_KEPT + 1',
        (f"{_FOLDS}day_buckets_keep_what_is_near_the_newest_day_and_the_total_keeps_all",),
    ),
    Mutant(
        "an upsert keeps the row that was there",
        "G3",
        "projections/bulk.py",
        'return f"ON CONFLICT ({primary_key}) DO UPDATE SET {changes}"',
        'return f"ON CONFLICT ({primary_key}) DO NOTHING" if changes else ""',
        (f"{_CONTRACT}a_thousand_mixed_events_shuffled_give_the_same_bytes",),
    ),
    Mutant(
        "the future begins when a worker looks",
        "G3",
        "workers/intake.py",
        "entry.position.ms, settings.max_clock_skew_s",
        'int(__import__("time").time() * 1000), settings.max_clock_skew_s',
        (f"{_DRAIN}what_is_the_future_is_decided_by_the_entrys_own_id_not_by_who_reads_it_when",),
    ),
)

WHOLE_ANSWERS = (
    Mutant(
        "support desks are counted by a second statement",
        "G4",
        "api_stub/handlers.py",
        "        trend = row.trend(now)\n",
        "        again = await self.stats_of.get(StatsAsk(key.tenant_id, slug))\n"
        "        row = row._replace(support_desk_count=again.support_desk_count)\n"
        "        trend = row.trend(now)\n",
        (f"{_READS}each_answer_is_one_statement",),
    ),
    Mutant(
        "whether a project exists is asked by a second statement",
        "G4",
        "api_stub/handlers.py",
        "        if entries is None:\n",
        "        ask = ActivityAsk(key.tenant_id, project_id, now)\n"
        "        if entries is None or await self.activity_of.get(ask) is None:\n",
        (f"{_READS}each_answer_is_one_statement",),
    ),
    Mutant(
        "an ask joins a query that was already sent",
        "2.4",
        "api_stub/coalesce.py",
        "            answers = await self._query(list(asks))\n",
        "            self._waiting.update(asks)\n"
        "            answers = await self._query(list(asks))\n"
        "            self._waiting = {key: ask for key, ask in self._waiting.items() if key not in asks}\n",
        (f"{_COALESCE}asks_gather_while_a_query_runs_and_share_the_next",),
    ),
)

ISOLATION = (
    Mutant(
        "a slug is looked up in all tenants",
        "G5",
        "api_stub/reads.py",
        ".where(holder.c.tenant_id == tenant_id, holder.c.slug == slug, holder.c.present)",
        ".where(holder.c.slug == slug, holder.c.present)",
        (f"{_READS}tenants_with_the_same_slug_or_project_id_each_read_their_own",),
    ),
    Mutant(
        "the trend is joined by the project alone",
        "G5",
        "api_stub/reads.py",
        "(analysis_trend.c.tenant_id == tenant_id) & (analysis_trend.c.project_id == project.c.project_id)",
        "analysis_trend.c.project_id == project.c.project_id",
        (f"{_READS}tenants_with_the_same_slug_or_project_id_each_read_their_own",),
    ),
    Mutant(
        "activity is read by the project alone",
        "G5",
        "api_stub/reads.py",
        ".where(activity.c.tenant_id == tenant_id, activity.c.project_id == project_id,",
        ".where(activity.c.project_id == project_id,",
        (f"{_READS}tenants_with_the_same_slug_or_project_id_each_read_their_own",),
    ),
    Mutant(
        "a project of another tenant shows as empty",
        "G5",
        "api_stub/reads.py",
        "(project.c.tenant_id == tenant_id) & (project.c.project_id == project_id) & project.c.present",
        "(project.c.project_id == project_id) & project.c.present",
        (f"{_READS}a_project_of_another_tenant_is_as_absent_as_one_that_never_was",),
    ),
    Mutant(
        "a project key reads its tenant's other projects",
        "G5",
        "api_stub/handlers.py",
        "if row.project_id != (key.project_id or row.project_id) or row.project_id != (wanted or row.project_id):",
        "if row.project_id != (wanted or row.project_id):",
        (f"{_READS}a_project_key_reads_no_other_project_of_its_tenant",),
    ),
    Mutant(
        "one project's flood pushes out the others' activity",
        "G5",
        "projections/bulk.py",
        "delete(table).where(*of_group, tuple_(",
        "delete(table).where(tuple_(",
        (f"{_CONTRACT}activity_never_holds_more_than_its_newest_hundred",),
    ),
    Mutant(
        "one tenant's poison opens the breaker for all",
        "G5",
        "workers/breaker.py",
        "return len(self.failed_at) > 1 and 2 * len(self.failed_at) >= len(seen)",
        "return 2 * len(self.failed_at) >= len(seen) > 0",
        (f"{_DRAIN}one_tenants_poison_cannot_open_the_breaker",),
    ),
    Mutant(
        "the secret of a key is not checked",
        "2.1",
        "api_stub/checks.py",
        " or not key.has_secret(presented.secret):",
        ":",
        (f"{_READS}a_wrong_secret_or_kind_is_as_unknown_as_no_key",),
    ),
    Mutant(
        "a revoked key is accepted",
        "2.1",
        "api_stub/checks.py",
        "if key.revoked_us is not None:",
        "if key.revoked_us is not None and key.revoked_us > now_us:",
        (f"{_READS}revoked_comes_before_expired_before_kind_before_permission",),
    ),
    Mutant(
        "a key is remembered for ever",
        "2.1",
        "api_stub/checks.py",
        "if known is not None and asked_at - known[0] < self._cache_s:",
        "if known is not None and self._cache_s > 0:",
        (f"{_READS}a_found_key_is_trusted_for_its_cache_time_and_no_longer",),
    ),
    Mutant(
        "a job may call anything",
        "G5",
        "workers/queue.py",
        "if self.func_name not in ALLOWED or self.instance is not None:",
        "if self.instance is not None:",
        (f"{_RINGING}a_job_of_somebody_else_runs_nothing_and_the_worker_lives",),
    ),
    Mutant(
        "jobs are pickled",
        "G5",
        "workers/queue.py",
        "return Queue(QUEUE_NAME, connection=redis, serializer=JSONSerializer, job_class=DrainJob)",
        "return Queue(QUEUE_NAME, connection=redis, job_class=DrainJob)",
        (f"{_RINGING}a_job_of_somebody_else_runs_nothing_and_the_worker_lives",),
    ),
)

CONSTANT_READS = (
    Mutant(
        "a reader may scan whole tables",
        "G6",
        "projections/store.py",
        '    "enable_seqscan": "off",\n',
        "",
        (f"{_READS}the_plans_touch_rows_through_keys_only",),
    ),
    Mutant(
        "no index leads from a slug to its project",
        "G6",
        "migrations/versions/0002_read_models.py",
        '["tenant_id", "slug", sa.text("slug_time_us DESC"), sa.text("slug_event_id DESC")]',
        '["slug_event_id"]',
        (f"{_READS}the_plans_touch_rows_through_keys_only",),
    ),
    Mutant(
        "slugs compare without regard to case",
        "G6",
        "api_stub/reads.py",
        "holder.c.slug == slug,",
        "func.lower(holder.c.slug) == func.lower(slug),",
        (f"{_READS}the_plans_touch_rows_through_keys_only",),
    ),
)

RECOVERS = (
    Mutant(
        "a lease never expires",
        "G7",
        "workers/queue.py",
        "timeout=LEASE_S, thread_local=False",
        "timeout=None, thread_local=False",
        (f"{_RINGING}a_lease_is_kept_and_freed_by_its_token_only",),
    ),
    Mutant(
        "who sleeps over a claim keeps it",
        "G7",
        "projections/store.py",
        '    "idle_in_transaction_session_timeout": "10s",\n',
        "",
        (f"{_DRAIN}no_session_may_hold_a_claim_or_wait_for_one_for_long",),
    ),
    Mutant(
        "a drain that was overtaken goes on from where it was",
        "G7",
        "workers/drain.py",
        "        self.at = self.tried = None  # what follows may fail, and then only the database knows\n",
        "        self.at, self.tried = expected, None\n",
        (f"{_DRAIN}a_drain_that_was_overtaken_goes_on_from_where_the_other_is",),
    ),
    Mutant(
        "the breaker never opens",
        "G7",
        "workers/breaker.py",
        "return len(self.failed_at) > 1 and 2 * len(self.failed_at) >= len(seen)",
        "return len(self.failed_at) > len(seen)",
        (f"{_DRAIN}a_release_that_fails_for_most_tenants_parks_next_to_nothing",),
    ),
    Mutant(
        "suspicion passes to the next event",
        "G7",
        "workers/pace.py",
        "return self.suspect == (epoch, position) and self.failures >= FAILURES_ALONE_MAX",
        "return self.suspect is not None and self.failures >= FAILURES_ALONE_MAX",
        (f"{_DRAIN}suspicion_never_passes_to_the_next_event",),
    ),
    Mutant(
        "a stream that was set back is not rung for",
        "G7",
        "workers/drain.py",
        "(end.position is not None and end.position != at.position)",
        "(end.position is not None and end.position > at.position)",
        (f"{_RINGING}a_sweep_rings_for_a_stream_that_ends_before_its_checkpoint",),
    ),
    Mutant(
        "a deleted tail is taken for the stream's end",
        "G7",
        "event_stream/stream.py",
        "return End(_entry(*last) if last else None,",
        'return End(_entry(info["last-generated-id"], {}) if last else None,',
        (f"{_STREAM}a_deleted_tail_is_not_the_end",),
    ),
    Mutant(
        "hints that were left behind are not mended",
        "G7",
        "workers/dispatcher.py",
        "        self._mend_hints(hints, checkpoints, ends)\n",
        "",
        (f"{_RINGING}a_sweep_mends_a_hint_that_a_dying_drain_left_behind",),
    ),
    Mutant(
        "a letter never closes",
        "1.4",
        "projections/apply.py",
        "dead_letters.close_applied(connection, _applied(connection, accepted, batch.letters))",
        "pass",
        (f"{_DRAIN}a_letter_closes_in_the_transaction_that_applies_its_event",),
    ),
    Mutant(
        "who parks a stray event does not claim its home",
        "1.4",
        "projections/apply.py",
        "checkpoint.claim(connection, batch.expected, batch.homes)",
        "checkpoint.claim(connection, batch.expected)",
        (f"{_DRAIN}a_stray_event_applied_at_home_at_the_same_moment_leaves_no_open_letter",),
    ),
    Mutant(
        "a letter is replayed to where it came from",
        "1.4",
        "workers/replay.py",
        "return partition_of(letter.tenant_id, runtime.stream.partitions)",
        "return letter.partition",
        (f"{_COMMANDS}a_replayed_letter_closes_in_the_transaction_that_applies_its_event",),
    ),
)

BOUNDED = (
    Mutant(
        "the queue grows while nobody works",
        "G8",
        "workers/dispatcher.py",
        "if room > 0 and lease.take():",
        "if lease.take():",
        (f"{_RINGING}the_queue_is_bounded_while_nobody_works",),
    ),
    Mutant(
        "finished jobs stay in Redis",
        "G8",
        "workers/queue.py",
        "        result_ttl=0,\n",
        "",
        (f"{_RINGING}a_rung_job_drains_and_leaves_nothing_behind",),
    ),
    Mutant(
        "a stranger frees a lease",
        "G8",
        "workers/queue.py",
        "            self._lock.release()\n",
        "            self._lock.redis.delete(self._lock.name)\n",
        (f"{_RINGING}a_lease_is_kept_and_freed_by_its_token_only",),
    ),
    Mutant(
        "the lease is looked at once a drain",
        "G8",
        "workers/drain.py",
        "    while time.monotonic() < deadline and lease.enter():\n",
        "    entered = lease.enter()\n    while entered and time.monotonic() < deadline:\n",
        (f"{_DRAIN}a_drain_that_loses_its_lease_stops_before_the_next_batch",),
    ),
    Mutant(
        "a worker killed for its memory begins with as much again",
        "G7",
        "workers/pace.py",
        "ENTRIES_FIRST = 1",
        "ENTRIES_FIRST = 16",
        ("tests/faults/test_workers.py::test_a_worker_killed_for_its_memory_is_replaced_by_one_that_reads_less",),
    ),
    Mutant(
        "a silent PostgreSQL is waited for for ever",
        "G7",
        "projections/connection.py",
        "return super().wait(gen, interval, self.answer_within_s)",
        "return super().wait(gen, interval, None)",
        ("tests/faults/test_postgresql_wire.py::test_a_statement_that_is_never_answered_is_given_up",),
    ),
    Mutant(
        "a batch may hold any number of bytes",
        "G8",
        "workers/pace.py",
        "return min(self.count**2 * FASTER, fitting, ENTRIES_MAX)",
        "return min(self.count**2 * FASTER, ENTRIES_MAX)",
        (f"{_DRAIN}large_entries_make_the_next_batch_smaller",),
    ),
    Mutant(
        "a letter is kept whole, however large",
        "G8",
        "projections/dead_letters.py",
        "last.body[:BODY_BYTES_MAX]",
        "last.body",
        (f"{_DRAIN}bad_entries_are_parked_with_their_reason_and_stop_nobody",),
    ),
    Mutant(
        "old activity is never removed",
        "G8",
        "projections/bulk.py",
        ".offset(keep - 1).limit(1).lateral(",
        ".offset(keep * 1000).limit(1).lateral(",
        (f"{_CONTRACT}activity_never_holds_more_than_its_newest_hundred",),
    ),
    Mutant(
        "producers are never refused",
        "G8",
        "event_stream/producer.py",
        "if self._known[partition] + count > self._limit]",
        "if count > self._limit]",
        (f"{_STREAM}the_backlog_limit_counts_what_is_not_yet_projected",),
    ),
    Mutant(
        "streams are never trimmed",
        "G8",
        "workers/dispatcher.py",
        "        if before > START and at.is_at(entries):\n",
        "        if before < START and at.is_at(entries):\n",
        (f"{_SOAK}everything_but_the_event_log_stays_bounded_under_traffic",),
    ),
    Mutant(
        "each batch leaves a key behind",
        "G8",
        "workers/progress.py",
        "        pipe.delete(_failure_key(partition))\n",
        "        pipe.delete(_failure_key(partition))\n        pipe.set(f'projector:batch:{batch.batch_us}', 1)\n",
        (f"{_SOAK}everything_but_the_event_log_stays_bounded_under_traffic",),
    ),
)

EVENTS_AND_ANSWERS = (
    Mutant(
        "NaN is accepted",
        "1.1",
        "event_stream/envelope.py",
        "        value = from_json(body, allow_inf_nan=False)\n    except ValueError as error:",
        "        value = from_json(body)\n    except ValueError as error:",
        (f"{_EVENTS}what_is_not_json_is_refused_as_such",),
    ),
    Mutant(
        "other content under a known identity is a duplicate",
        "1.4",
        "projections/event_log.py",
        "elif equal_json(body, event.body):",
        "elif body:",
        (f"{_DRAIN}the_same_identity_with_other_content_is_parked_and_the_first_wins",),
    ),
    Mutant(
        "1 and true are equal content",
        "1.4",
        "event_stream/envelope.py",
        'return ("boolean", value)',
        "return value",
        (f"{_EVENTS}equal_content_is_the_same_json_value",),
    ),
    Mutant(
        "the window has thirty-one days",
        "2.2",
        "api_stub/reads.py",
        "range(today - WINDOW_DAYS + 1, today + 1)",
        "range(today - WINDOW_DAYS, today + 1)",
        (f"{_READS}the_trend_is_the_last_thirty_days_today_included",),
    ),
    Mutant(
        "the first taker of a slug answers",
        "2.2",
        "api_stub/reads.py",
        "holder.c.slug_time_us.desc()",
        "holder.c.slug_time_us.asc()",
        (f"{_READS}of_several_holders_of_a_slug_the_latest_taker_answers",),
    ),
    Mutant(
        "a deleted project still holds its slug",
        "2.2",
        "api_stub/reads.py",
        "holder.c.slug == slug, holder.c.present)",
        "holder.c.slug == slug)",
        (f"{_READS}a_project_shows_once_it_is_created_and_hides_once_it_is_deleted",),
    ),
    Mutant(
        "the edge of hours is in",
        "2.3",
        "api_stub/reads.py",
        "activity.c.time_us > after_us",
        "activity.c.time_us >= after_us",
        (f"{_READS}an_entry_exactly_at_the_edge_of_hours_is_out",),
    ),
    Mutant(
        "activity keeps ninety-nine",
        "2.3",
        "projections/activity.py",
        "ENTRIES_KEPT = 100",
        "ENTRIES_KEPT = 99",
        (f"{_READS}at_most_a_hundred_entries_newest_first_ties_by_id_descending",),
    ),
    Mutant(
        "hours are read in any digits",
        "2.3",
        "api_stub/checks.py",
        '_HOURS = re.compile(r"[0-9]{1,4}", re.ASCII)',
        '_HOURS = re.compile(r"\\d{1,4}")',
        (f"{_READS}hours_is_a_whole_number_given_once",),
    ),
)

WATCHED = (
    Mutant(
        "health looks at the lag alone",
        "2.5",
        "workers/status.py",
        '            *(f"{found}; start `projector worker`" for found in self.undrained()),\n',
        "",
        (f"{_HEALTH}health_fails_while_loops_are_dead_though_nothing_waits",),
    ),
    Mutant(
        "what was parked or lost is no problem",
        "2.5",
        "workers/status.py",
        "return [*self.obstacles(), *self.omissions()]",
        "return self.obstacles()",
        (f"{_HEALTH}what_was_parked_or_lost_is_a_problem_and_yet_no_reason_to_fail",),
    ),
    Mutant(
        "a silent worker is no problem while another works",
        "2.5",
        "workers/status.py",
        "            if 0 < silent < known\n",
        "            if 0 > silent\n",
        ("tests/faults/test_alike.py::test_status_health_and_alerts_say_it_alike",),
    ),
    Mutant(
        "a worker's silence is told by the clocks of two hosts",
        "2.5",
        "workers/status.py",
        "    if beat is not None:\n        return max(0.0, (now_ms - int(beat)) / 1000)\n",
        "",
        ("tests/faults/test_time.py::test_wrong_clocks_of_workers_and_dispatcher_change_no_judgement_and_no_answer",),
    ),
    Mutant(
        "what was counted before the clock was set back is counted again",
        "3",
        "workers/rates.py",
        "if last and last > bucket then redis.call('DEL', KEYS[1]) end\n",
        "",
        (f"{_OVERVIEW}buckets_of_a_clock_that_was_set_back_are_not_taken_for_now",),
    ),
    Mutant(
        "the history of rates grows for ever",
        "G8",
        "workers/rates.py",
        "redis.call('HDEL', KEYS[1], name)",
        "local kept = name",
        (f"{_OVERVIEW}the_history_in_redis_is_bounded_and_expires",),
    ),
    Mutant(
        "health pays for the tenants that status shows",
        "2.5",
        "cli/scrape.py",
        "        observed = read_observed(self._runtime)\n",
        "        from workers.overview import read_overview\n\n        read_overview(self._runtime)\n"
        "        observed = read_observed(self._runtime)\n",
        (f"{_OVERVIEW}health_and_metrics_do_not_pay_for_rates_and_tenants",),
    ),
    Mutant(
        "one dead letter fails the health of all",
        "2.5",
        "cli/serve.py",
        "return Health(found.obstacles(), found.omissions())",
        "return Health(found.problems())",
        (f"{_HEALTH}what_was_parked_or_lost_is_a_problem_and_yet_no_reason_to_fail",),
    ),
    Mutant(
        "batches are not counted",
        "2.5",
        "workers/progress.py",
        "        count_committed(pipe, batch)\n",
        "",
        (f"{_METRICS}every_batch_is_counted_by_its_size_and_its_times",),
    ),
    Mutant(
        "what only the transaction can find out is parked for no reason",
        "2.5",
        "workers/tally.py",
        "parked[Reason.ID_CONFLICT.value] += after.parked - batch.start.parked - len(batch.letters)",
        "parked[Reason.ID_CONFLICT.value] += 0",
        (f"{_METRICS}a_scrape_tells_what_status_tells",),
    ),
    Mutant(
        "a scrape fails with its server",
        "2.5",
        "cli/scrape.py",
        "(RedisError, SQLAlchemyError, EventStreamError, ProjectionsError, TimeoutError)",
        "(EventStreamError, ProjectionsError, TimeoutError)",
        (f"{_METRICS}while_redis_is_away_the_rest_is_told_and_what_would_be_half_is_not",),
    ),
    Mutant(
        "a path that nobody serves becomes a label",
        "G5",
        "api_stub/meter.py",
        "scope.get(TEMPLATE, NO_ROUTE)",
        'scope.get(TEMPLATE, scope["path"])',
        ("tests/unit/test_meter.py::test_unknown_paths_are_one_route_however_many_there_are",),
    ),
    Mutant(
        "nothing tells the lines of one drain from another's",
        "2.5",
        "workers/drain.py",
        "with bound_contextvars(drain=lease.token[:12], partition=partition):",
        "with bound_contextvars(partition=partition):",
        ("tests/e2e/test_logs.py::test_what_is_bound_to_a_drain_goes_with_it",),
    ),
)

REBUILT = (
    Mutant(
        "what came since the first fold is not folded",
        "G3",
        "projections/rebuild.py",
        "        _, is_whole = refolding.step(connection)\n",
        "        is_whole = True\n",
        (f"{_REBUILD}what_is_applied_after_the_last_look_is_folded_under_the_claim",),
    ),
    Mutant(
        "a rebuild claims nothing",
        "G2",
        "projections/rebuild.py",
        "            checkpoint.claim_as_it_is(connection, refolding.partition)\n",
        "            checkpoint.read(connection, refolding.partition)\n",
        (f"{_REBUILD}a_drain_waits_for_the_claim_and_then_applies[postgresql]",),
    ),
    Mutant(
        "a rebuild removes what other tenants have",
        "G5",
        "projections/pages.py",
        "here = [tenant == after[0], *conditions]",
        "here = [tenant >= after[0], *conditions]",
        (f"{_REBUILD}a_selection_leaves_all_other_tenants_and_read_models_as_they_are",),
    ),
    Mutant(
        "what is due is settled before it is done",
        "G7",
        "projections/rebuild.py",
        "    with _claimed(engine, refolding) as connection:\n"
        "        claimed_s = time.monotonic()\n"
        "        differences = _differences(connection, refolding)\n"
        "        for difference",
        "    with engine.begin() as early:\n"
        "        due.settle(early, refolding.tenant_id, [projection.name for projection in refolding.projections])\n"
        "    with _claimed(engine, refolding) as connection:\n"
        "        claimed_s = time.monotonic()\n"
        "        differences = _differences(connection, refolding)\n"
        "        for difference",
        (f"{_REBUILD}after_a_crash_at_any_step_it_goes_on_where_it_stopped",),
    ),
    Mutant(
        "a tenant is emptied, and filled in another transaction",
        "G4",
        "projections/rebuild.py",
        "    missing, changed = iter(",
        "    connection.execute(table.delete())\n    connection.commit()\n    missing, changed = iter(",
        (
            f"{_REBUILD}a_reader_sees_the_rows_from_before_or_from_after_and_nothing_else",
            f"{_REBUILD}after_a_crash_at_any_step_it_goes_on_where_it_stopped",
        ),
    ),
    Mutant(
        "rows that should not be there stay",
        "G3",
        "projections/rebuild.py",
        "    delete_rows(connection, table, [row[:width] for row in difference.extra])\n",
        "",
        (f"{_REBUILD}whatever_was_done_to_a_row_the_log_gives_it_back_byte_for_byte",),
    ),
    Mutant(
        "a log that lost its last commits is taken for the one that was folded",
        "G3",
        "projections/rebuild.py",
        "page[0].place != until",
        "page[0].number != until.number",
        (f"{_REBUILD}a_log_that_lost_its_last_commits_is_folded_anew",),
    ),
    Mutant(
        "after an outage in a fold it goes on with what is half folded",
        "G2",
        "projections/rebuild.py",
        "        self.spoilt = True\n        for projection",
        "        for projection",
        (f"{_REBUILD}an_outage_is_waited_for_wherever_it_comes",),
    ),
    Mutant(
        "a page that fails to be decoded is taken for read",
        "G2",
        "projections/rebuild.py",
        "        self._decode(page)\n        if page:\n            self._after_id = page[-1].event_id\n",
        "        if page:\n            self._after_id = page[-1].event_id\n        self._decode(page)\n",
        (f"{_REBUILD}what_fails_for_a_moment_is_neither_lost_nor_doubled",),
    ),
    Mutant(
        "a page of the tail is decoded again after its fold failed",
        "G2",
        "projections/rebuild.py",
        "            self._until = new[-1].place\n        self._fold()\n",
        "            self._fold()\n            self._until = new[-1].place\n",
        (f"{_REBUILD}what_fails_for_a_moment_is_neither_lost_nor_doubled",),
    ),
    Mutant(
        "a rebuild keeps all events of a tenant in memory",
        "G8",
        "projections/rebuild.py",
        "if not self._in_history or self._is_enough():",
        "if not self._in_history:",
        (f"{_REBUILD}no_more_events_are_in_memory_than_are_folded_at_once",),
    ),
    Mutant(
        "a rebuild keeps all entries in memory",
        "G8",
        "projections/projection.py",
        "model[group] = self._newest(model.get(group, []) + rows)",
        "model[group] = model.get(group, []) + rows",
        (f"{_REBUILD}memory_holds_no_more_entries_than_are_kept",),
    ),
    Mutant(
        "a worker does a whole rebuild in one job",
        "5",
        "workers/rebuild_jobs.py",
        "            if time.monotonic() > deadline:\n",
        "            if done is None:\n",
        (f"{_REBUILD}a_job_gives_way_to_the_drains_behind_it_after_a_while",),
    ),
    Mutant(
        "a comparison mends what it finds",
        "3",
        "workers/rebuild.py",
        "self._finish(compare, tenant_id, self._names)",
        "self._finish(replace, tenant_id, self._names)",
        (f"{_REBUILD}a_comparison_tells_what_differs_and_changes_nothing",),
    ),
)

VERIFIED = (
    Mutant(
        "which events are in a row does not matter, only how many",
        "G9",
        "projections/sums.py",
        "self.fingerprint + sum(added))",
        "self.fingerprint)",
        (f"{_VERIFY}there_is_nothing_to_find_where_nothing_was_done",),
    ),
    Mutant(
        "rows that the log does not know are not looked for",
        "G9",
        "projections/verify.py",
        "    only_stored = select(stored).except_(select(logged)).subquery()\n",
        "    only_stored = select(stored).where(literal(1) == 2).subquery()\n",
        (f"{_VERIFY}whatever_is_done_to_a_row_is_found_and_mended",),
    ),
    Mutant(
        "a log is whole if its newest event is there",
        "G9",
        "projections/verify.py",
        "    if expected == held + since == last:\n",
        "    if expected == last:\n",
        (f"{_VERIFY}a_log_that_has_lost_events_is_told_and_does_not_take_them_from_the_rows_too",),
    ),
    Mutant(
        "a repair takes from the rows what the log has lost",
        "G9",
        "cli/verify.py",
        "            if partition_of(tenant_id, partitions) in damaged:\n",
        "            if not tenant_id:\n",
        (f"{_VERIFY}a_log_that_has_lost_events_is_told_and_does_not_take_them_from_the_rows_too",),
    ),
    Mutant(
        "the bytes of another tenant's event are folded",
        "G5",
        "projections/event_log.py",
        "        if attributes != (self.tenant_id, self.event_id, self.type, self.project_id, self.time_us):\n",
        "        if event is None:\n",
        (f"{_VERIFY}a_log_whose_bytes_and_columns_disagree_is_found_and_nothing_is_rebuilt_from_it",),
    ),
    Mutant(
        "a pass looks at what has changed only",
        "G9",
        "workers/verify_jobs.py",
        "*changed, *at_rest})",
        "*changed})",
        (f"{_VERIFY}a_pass_looks_at_what_has_changed_and_at_some_of_those_at_rest",),
    ),
    Mutant(
        "what a pass found stays when it is mended",
        "G9",
        "workers/verified.py",
        '            client.hdel(f"{KEY}:{means}", tenant_id)\n',
        "            client.hlen(KEY)\n",
        (f"{_VERIFY}what_a_pass_finds_is_a_problem_until_it_is_mended",),
    ),
)

OF_ONE_VERSION = (
    Mutant(
        "rows of an older version are folded on",
        "G3",
        "projections/versions.py",
        "if standings.get(each.name) == Standing(each.version))",
        "if each.name in standings)",
        (f"{_OF_ONE_VERSION}a_newer_worker_logs_the_events_and_leaves_the_fold_to_the_rebuild",),
    ),
    Mutant(
        "nobody notes that rows lack events",
        "G3",
        "projections/versions.py",
        "at if name in live else at._replace(is_behind=True)",
        "at",
        (f"{_OF_ONE_VERSION}a_rollback_before_the_rebuild_loses_nothing",),
    ),
    Mutant(
        "an older release folds into rows of a newer one",
        "G3",
        "projections/versions.py",
        "        if at.version > known.get(name, 0):\n            raise",
        "        if at.version > known.get(name, 0) + 9:\n            raise",
        (f"{_OF_ONE_VERSION}an_older_worker_rolls_back_and_says_so_and_the_newer_goes_on",),
    ),
    Mutant(
        "a rebuild does not say of which version its rows are",
        "3",
        "projections/rebuild.py",
        "        versions.fill(connection, refolding.tenant_id, refolding.projections)\n",
        "",
        (f"{_OF_ONE_VERSION}a_newer_worker_logs_the_events_and_leaves_the_fold_to_the_rebuild",),
    ),
    Mutant(
        "a tenant without a line is taken for a new one",
        "G3",
        "projections/versions.py",
        "    new -= _with_history(connection, new, known)\n",
        "",
        (f"{_OF_ONE_VERSION}a_tenant_that_a_release_without_versions_took_in_is_rebuilt_and_not_taken_for_a_new_one",),
    ),
    Mutant(
        "a read model without rows is taken for an empty one",
        "2",
        "api_stub/reads.py",
        "    return not have_rows(versions, read_models) and (versions, project) != (None, None)",
        "    return not have_rows(versions, read_models) and (versions, project) == ()",
        (f"{_OF_ONE_VERSION}a_projection_that_is_new_answers_503_until_its_tenant_has_it",),
    ),
    Mutant(
        "verification calls rows wrong that are due",
        "G9",
        "projections/verify.py",
        "        if not versions.live_in(versions.parse(versions.FIRST if line is None else line), [projection]):\n"
        "            return []\n",
        "",
        (f"{_OF_ONE_VERSION}verification_leaves_out_what_is_due_and_still_finds_the_rest",),
    ),
)

VERSIONS = (
    Mutant(
        "an event of an older version is folded as it came",
        "G3",
        "projections/apply.py",
        "as_folded(accepted.new)",
        "accepted.new",
        (f"{_VERSIONS}rows_do_not_tell_in_which_version_an_event_was_written",),
    ),
    Mutant(
        "a rebuild folds events of an older version as they came",
        "G3",
        "projections/rebuild.py",
        "events = as_folded(self._unfolded)",
        "events = self._unfolded",
        (f"{_VERSIONS}an_upgrade_changes_no_row_and_goes_on",),
    ),
    Mutant(
        "a projection is said to read the newest version of a type only",
        "G9",
        "event_stream/versions.py",
        "if TYPES[_newest(type_)] in kinds",
        "if TYPES[type_] in kinds",
        (f"{_VERSIONS}rows_do_not_tell_in_which_version_an_event_was_written",),
    ),
    Mutant(
        "an upcaster may lead to what no fold reads",
        "G1",
        "event_stream/versions.py",
        "if type(data) is not TYPES[type_]:",
        "if data is event.body:",
        (
            "tests/unit/test_event_versions.py::test_an_upcaster_that_leads_elsewhere_is_a_bug_not_an_event_that_nobody_reads",
        ),
    ),
    Mutant(
        "an upcaster that fails is taken for an outage",
        "G5",
        "projections/projection.py",
        'raise FoldError(f"the upcaster of {event.type}", event, error) from error',
        "raise",
        ("tests/unit/test_event_versions.py::test_an_upcaster_that_fails_is_like_a_fold_that_fails",),
    ),
    Mutant(
        "the event that a fold failed on is looked for as it was received",
        "G5",
        "workers/pace.py",
        "if each.event.identity == error.event.identity)",
        "if each.event is error.event)",
        (f"{_VERSIONS}a_fold_that_fails_on_an_old_event_in_the_middle_of_a_batch_is_told_which_it_was",),
    ),
)

MUTANTS = (
    *NOTHING_LOST,
    *EXACTLY_ONCE,
    *CONVERGENT,
    *WHOLE_ANSWERS,
    *ISOLATION,
    *CONSTANT_READS,
    *RECOVERS,
    *BOUNDED,
    *EVENTS_AND_ANSWERS,
    *WATCHED,
    *REBUILT,
    *VERIFIED,
    *OF_ONE_VERSION,
    *VERSIONS,
)
