"""Alarms of finetunes: those that the worker logged, and those that votes have raised since."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from app.db.queries import alarms as queries
from app.db.queries import checkpoints as checkpoint_queries
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
    if job.kind is not JobKind.FINETUNE:
        return []
    logged = queries.alarms(session, job.id, after=job.log_begins_after)
    epochs = checkpoint_queries.epochs_by_checkpoint(session, job.id)
    saved = {epoch: id for id, epoch in epochs.items()}
    found = [
        (alarm["epoch"], alarm["message"], tuple(alarm["alarms"]), "win_rate" in alarm.get("witnesses", ()))
        for alarm in logged
    ]
    if not any(by_votes for *_, by_votes in found):
        found += [(epoch, message, (message,), True) for epoch, message in _by_votes(session, job, epochs)]
    if not found:
        return []
    found.sort()
    first = found[0][0]
    last_good = max((epoch for epoch in saved if epoch < first), default=0)
    return [AlarmView(epoch, message, alarms, last_good, saved.get(epoch)) for epoch, message, alarms, _ in found]


def _by_votes(session: Session, job: JobView, epochs: dict[UUID, int]) -> list[tuple[int, str]]:
    """Epochs that people like less than the base, by the interval of their votes."""
    from app.domain.ratings import win_rate  # imports numpy

    if not epochs:
        return []
    duels = queries.duels_with_base(session, list(epochs), UUID(job.spec["checkpoint_id"]))
    found = []
    for id, epoch in epochs.items():
        met = [duel for duel in duels if duel.checkpoint_id == id]
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
