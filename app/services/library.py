"""Keeping the library in order: the retention rule, disk use, and the thread that looks after both."""

import logging
import shutil
import threading
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.adapters.blobs import BlobStore
from app.adapters.clock import Clock
from app.adapters.resume_states import delete_state
from app.config import Settings
from app.db.models import Checkpoint, Job, LibraryState
from app.db.queries import bin as queries
from app.db.queries import jobs as job_queries
from app.db.session import Database, run_after_commit
from app.domain.documented import Documented
from app.domain.enums import JobStatus
from app.domain.errors import ConflictError, TastemakerError
from app.domain.retention import RetentionRule, SavedEpoch, reasons_to_keep
from app.services import audit, bin, checkpoints
from app.services.accounts import Principal
from app.services.jobs import lock_job

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 500
"""Checkpoints that one application of the rule deletes at most."""
_RULE, _STORAGE = "retention", "storage"
_FIRST, _PERIOD = timedelta(seconds=5), timedelta(minutes=1)
_HOURLY = timedelta(hours=1)


class Decision(Documented):
    """What the rule means for one checkpoint."""

    checkpoint_id: UUID
    name: str
    job_id: UUID
    job_name: str
    epoch: int
    n_bytes: int | None
    keep: bool
    why: str
    """Why it is kept; empty where it may go."""


class RetentionPreview(BaseModel):
    rule: RetentionRule
    n_kept: int
    n_deleted: int
    n_bytes: int
    """Bytes of the model files that would go, as far as they have been measured."""
    n_states: int
    """Finetunes that succeeded and would let go of the state from which their budget could be raised."""
    decisions: list[Decision]


class StorageUse(Documented):
    """What the library takes on disk. Sizes are measured now and then; null before the first time."""

    n_checkpoints: int
    checkpoint_bytes: int
    """Model files, files that checkpoints share counted for each."""
    n_samples: int
    n_in_bin: int
    bin_bytes: int
    n_blobs: int | None
    blob_bytes: int | None
    """Everything in the blob store: models, images, resumable states, reward models."""
    measured_at: datetime | None
    disk_total_bytes: int | None
    """Of the disk that the blobs are on; null where that is no disk of this machine."""
    disk_free_bytes: int | None


def get_rule(session: Session) -> RetentionRule:
    """The rule in force; the default one keeps the last three epochs and never acts by itself."""
    row = session.get(LibraryState, _RULE)
    return RetentionRule() if row is None else RetentionRule.model_validate(row.value)


def set_rule(session: Session, who: Principal, rule: RetentionRule, now: datetime) -> RetentionRule:
    _put_state(session, _RULE, rule.model_dump(mode="json"), now)
    audit.record(session, who.user_id, "retention.set", _RULE, now, rule=rule.model_dump_json())
    return rule


def preview_rule(session: Session, rule: RetentionRule, now: datetime) -> RetentionPreview:
    """What the rule would delete now, and why the rest stays."""
    saved = queries.saved_epochs(session)
    needed = bin.blocked(session, [row for row, _ in saved])
    decisions: list[Decision] = []
    for _, run in groupby(saved, key=lambda pair: pair[1].id):
        pairs = list(run)
        reasons = reasons_to_keep([_as_saved(row, job, needed.get(row.id), now) for row, job in pairs], rule)
        decisions += [_decision(row, job, reasons[row.id]) for row, job in pairs]
    going = [decision for decision in decisions if not decision.keep]
    return RetentionPreview(
        rule=rule,
        n_kept=len(decisions) - len(going),
        n_deleted=len(going),
        n_bytes=sum(decision.n_bytes or 0 for decision in going),
        n_states=len(_old_states(session, rule, now)),
        decisions=decisions,
    )


def apply_rule(
    session: Session, who: Principal, rule: RetentionRule, previewed: Sequence[UUID], now: datetime
) -> list[UUID]:
    """Put into the bin what the rule gives up, of those that the caller has seen in a preview. Returns which.

    Raises:
        ConflictError: there are too many for once.
    """
    if len(previewed) > MOST_AT_ONCE:
        raise ConflictError(f"At most {MOST_AT_ONCE} checkpoints are deleted at once; apply the rule several times.")
    seen = set(previewed)
    going = [
        item for item in preview_rule(session, rule, now).decisions if not item.keep and item.checkpoint_id in seen
    ]
    for item in going:
        bin.delete(session, who, item.checkpoint_id, now)
    return [item.checkpoint_id for item in going]


def drop_states(
    session: Session, database: Database, blobs: BlobStore, who: Principal | None, rule: RetentionRule, now: datetime
) -> int:
    """Let go of the states that the rule gives up, of `MOST_AT_ONCE` runs at most; the files go once the transaction
    has committed. Returns of how many runs."""
    rows = _old_states(session, rule, now)[:MOST_AT_ONCE]
    for row in rows:
        job = lock_job(session, row.id)
        if job.status is not JobStatus.SUCCEEDED or job.resume_sha256 is None:
            continue  # somebody has raised its budget meanwhile
        run_after_commit(session, partial(delete_state, database, blobs, job.resume_sha256))
        job.resume_sha256 = None
        audit.record(session, who.user_id if who else None, "job.drop_state", job.id, now)
    session.flush()
    return len(rows)


def storage_use(session: Session, settings: Settings) -> StorageUse:
    row = session.get(LibraryState, _STORAGE)
    measured: dict[str, Any] = row.value if row is not None else {}
    n_checkpoints, checkpoint_bytes, n_samples = queries.storage_totals(session)
    n_in_bin, bin_bytes = queries.bin_totals(session)
    disk = shutil.disk_usage(settings.data_dir) if settings.blob_url is None and settings.data_dir.exists() else None
    return StorageUse(
        n_checkpoints=n_checkpoints,
        checkpoint_bytes=checkpoint_bytes,
        n_samples=n_samples,
        n_in_bin=n_in_bin,
        bin_bytes=bin_bytes,
        n_blobs=measured.get("n_blobs"),
        blob_bytes=measured.get("n_bytes"),
        measured_at=row.updated_at if row is not None else None,
        disk_total_bytes=disk.total if disk else None,
        disk_free_bytes=disk.free if disk else None,
    )


def measure_checkpoints(database: Database, blobs: BlobStore, *, limit: int = 100) -> int:
    """Fill in the sizes of checkpoints that have none yet. Returns how many."""
    with database.reader() as session:
        rows = queries.unmeasured(session, limit=limit)
    sizes: dict[UUID, int] = {}
    for row in rows:
        try:
            sizes[row.id] = checkpoints.files_size(blobs, row.manifest_sha256)
        except TastemakerError:
            logger.warning("the files of checkpoint %s cannot be measured; run `tastemaker doctor`", row.id)
    if sizes:
        with database.writer() as session:
            for id, size in sizes.items():
                if (found := session.get(Checkpoint, id)) is not None:
                    found.n_bytes = size
    return len(sizes)


def measure_store(database: Database, blobs: BlobStore, now: datetime) -> None:
    """Add up every blob. Takes as long as listing the store does, and no memory."""
    n_blobs = n_bytes = 0
    for _, size in blobs.names():
        n_blobs += 1
        n_bytes += size
    with database.writer() as session:
        _put_state(session, _STORAGE, {"n_blobs": n_blobs, "n_bytes": n_bytes}, now)


class HousekeepingThread:
    """Measures, applies an automatic rule and purges the bin, beside the web server, until `stop`.

    Several web processes may each run one: every step is safe to repeat.
    """

    def __init__(self, database: Database, blobs: BlobStore, settings: Settings, clock: Clock) -> None:
        self._database, self._blobs, self._settings, self._clock = database, blobs, settings, clock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        pause = _FIRST
        while not self._stopping.wait(pause.total_seconds()):
            pause = _PERIOD
            try:
                tidy(self._database, self._blobs, self._settings, self._clock.now())
            except Exception:
                logger.exception("housekeeping goes on after an error")


def tidy(database: Database, blobs: BlobStore, settings: Settings, now: datetime) -> None:
    """One round: sizes of new checkpoints, the bin, and once an hour the store and the automatic rule."""
    measure_checkpoints(database, blobs)
    bin.purge_due(database, blobs, settings, now)
    with database.reader() as session:
        row = session.get(LibraryState, _STORAGE)
    if row is not None and now - row.updated_at < _HOURLY:
        return
    measure_store(database, blobs, now)
    apply_automatically(database, blobs, now)


def apply_automatically(database: Database, blobs: BlobStore, now: datetime) -> int:
    """Act on the rule in force if it is automatic. Returns how many checkpoints went into the bin."""
    with database.reader() as session:
        rule = get_rule(session)
        if not rule.automatic:
            return 0
        going = [item for item in preview_rule(session, rule, now).decisions if not item.keep][:MOST_AT_ONCE]
    n = 0
    for item in going:
        with database.writer() as session:
            try:
                bin.delete(session, None, item.checkpoint_id, now)
                n += 1
            except TastemakerError as refused:  # something has come to depend on it since
                logger.info("retention leaves %s: %s", item.checkpoint_id, refused.detail)
    with database.writer() as session:
        drop_states(session, database, blobs, None, rule, now)
    return n


def _old_states(session: Session, rule: RetentionRule, now: datetime) -> Sequence[Job]:
    if rule.keep_states_days is None:
        return []
    return job_queries.succeeded_with_state(session, before=now - timedelta(days=rule.keep_states_days))


def _put_state(session: Session, name: str, value: dict[str, Any], now: datetime) -> None:
    session.merge(LibraryState(name=name, value=value, updated_at=now))
    session.flush()


def _as_saved(row: Checkpoint, job: Job, needed: str | None, now: datetime) -> SavedEpoch:
    assert row.epoch is not None
    return SavedEpoch(
        id=row.id,
        epoch=row.epoch,
        age_hours=(now - row.created_at).total_seconds() / 3600,
        is_marked=bool(row.starred or row.note or set(row.tags) - _tags_of_run(job)),
        is_result=job.result.get("checkpoint_id") == str(row.id),
        is_open=not job.status.is_final,
        needed_because=needed,
    )


def _tags_of_run(job: Job) -> set[str]:
    """The tags that a finetune gives to all it saves, which say nothing about one of them: its rewards' names."""
    return {str(term["name"]) for term in job.spec.get("reward", ())}


def _decision(row: Checkpoint, job: Job, reason: str | None) -> Decision:
    assert row.epoch is not None
    return Decision(
        checkpoint_id=row.id,
        name=row.name,
        job_id=job.id,
        job_name=job.name,
        epoch=row.epoch,
        n_bytes=row.n_bytes,
        keep=reason is not None,
        why=reason or "",
    )
