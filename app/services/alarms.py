"""Alarms of finetunes: those that the worker logged, and those that votes have raised since."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from app.db.queries import alarms as queries
from app.db.queries import checkpoints as checkpoint_queries
from app.db.queries.alarms import Duel
from app.domain.enums import JobKind
from app.services.job_views import JobView


@dataclass(frozen=True)
class AlarmView:
    """Something that speaks against a run from `epoch` on."""

    epoch: int
    message: str
    alarms: tuple[str, ...]
    last_good_epoch: int
    """The newest saved epoch before the first alarm; 0 is the base."""
    checkpoint_id: UUID | None
    """What was saved at the epoch, to be put to people."""


def alarms_of(session: Session, job: JobView) -> list[AlarmView]:
    """By epoch; what was logged before the job was started over is left out."""
    return alarms_of_jobs(session, [job])[job.id]


def alarms_of_jobs(session: Session, jobs: Sequence[JobView]) -> dict[UUID, list[AlarmView]]:
    """`alarms_of` for several jobs at the price of one: three queries, however many there are."""
    finetunes = [job for job in jobs if job.kind is JobKind.FINETUNE]
    ids = [job.id for job in finetunes]
    logged = queries.alarms_of_jobs(session, ids)
    epochs = checkpoint_queries.epochs_of_jobs(session, ids)
    bases = {id: UUID(job.spec["checkpoint_id"]) for job in finetunes for id in epochs.get(job.id, {})}
    duels = queries.duels_with_bases(session, bases) if bases else []
    found: dict[UUID, list[AlarmView]] = {job.id: [] for job in jobs}
    for job in finetunes:
        own = [alarm.payload for alarm in logged.get(job.id, []) if alarm.seq > job.log_begins_after]
        found[job.id] = _in_order(own, epochs.get(job.id, {}), duels)
    return found


def _in_order(
    logged: Sequence[Mapping[str, Any]], epochs: Mapping[UUID, int], duels: Sequence[Duel]
) -> list[AlarmView]:
    """One run's alarms, from its log and from votes on its saved `epochs`."""
    saved = {epoch: id for id, epoch in epochs.items()}
    found = [
        (alarm["epoch"], alarm["message"], tuple(alarm["alarms"]), "win_rate" in alarm.get("witnesses", ()))
        for alarm in logged
    ]
    if not any(by_votes for *_, by_votes in found):
        found += [(epoch, message, (message,), True) for epoch, message in _by_votes(epochs, duels)]
    if not found:
        return []
    found.sort()
    first = found[0][0]
    last_good = max((epoch for epoch in saved if epoch < first), default=0)
    return [AlarmView(epoch, message, alarms, last_good, saved.get(epoch)) for epoch, message, alarms, _ in found]


def _by_votes(epochs: Mapping[UUID, int], duels: Sequence[Duel]) -> list[tuple[int, str]]:
    """Epochs that people like less than the base, by the interval of their votes."""
    met_by: dict[UUID, list[Duel]] = {}
    for duel in duels:
        met_by.setdefault(duel.checkpoint_id, []).append(duel)
    if not met_by:
        return []
    from app.domain.ratings import win_rate  # imports numpy

    found = []
    for id, epoch in epochs.items():
        met = met_by.get(id)
        if not met:
            continue
        rate = win_rate([duel.score for duel in met], [duel.rater_id for duel in met])
        if rate.win_rate is not None and rate.interval is not None and rate.interval[1] < 0.5:
            low, high = rate.interval
            found.append(
                (
                    epoch,
                    f"People prefer epoch {epoch} to the base in only {rate.win_rate:.0%} of {rate.n} votes "
                    f"(95 % interval {low:.0%} to {high:.0%}).",
                )
            )
    return found
