"""How long a job will take and how much memory it needs, before it starts: from what past jobs on the workers took."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from app.db.models import Job
from app.db.queries import past_runs as queries
from app.domain.effort import UPDATE_WEIGHT, FinetuneEffort, finetune_effort
from app.domain.enums import EventKind, JobKind
from app.domain.errors import InvalidSpecError
from app.domain.jobs import parts_of
from app.domain.specs import (
    AnalyzeSpec,
    EvaluateSpec,
    FinetuneSpec,
    PretrainSpec,
    PushSpec,
    SampleSpec,
    Spec,
    parse_spec,
)

_LOOKED_AT = 30  # past jobs of a kind
_EPOCHS_LOOKED_AT = 20  # newest epochs of each


@dataclass(frozen=True)
class Estimate:
    """`seconds` is the median over past jobs, with the least and the most; None without any past job to go by."""

    seconds: float | None
    between: tuple[float, float] | None
    memory_bytes: int | None
    """The most that a process of those jobs held; None where none has reported it."""
    basis: str
    """Where the numbers come from, in words."""
    calibration_id: UUID | None = None
    """A checkpoint that a few samples should be drawn from, so that there is something to go by."""


def estimate(session: Session, spec: Spec) -> Estimate:
    """What the job will take, going by past jobs of the same shape, else by sampling of the same model."""
    match spec:
        case FinetuneSpec():
            return _finetune(session, spec)
        case SampleSpec():
            return _in_parts(spec, _drawing(session, spec.checkpoint_id, spec.n * spec.steps, JobKind.SAMPLE))
        case EvaluateSpec():
            work = spec.n * spec.steps * len(spec.checkpoint_ids)
            return _in_parts(spec, _drawing(session, spec.checkpoint_ids[0], work, JobKind.EVALUATE))
        case AnalyzeSpec():
            same = [job for job in _past(session, JobKind.ANALYZE) if job.spec.get("kind") == spec.kind.value]
            work = spec.n * len(spec.checkpoint_ids)
            return _proportional(session, same, work, lambda old: old["n"] * len(old["checkpoint_ids"]), "samples")
        case PretrainSpec():
            same = [job for job in _past(session, JobKind.PRETRAIN) if _same_network(job.spec, spec)]
            return _proportional(
                session, same, spec.steps * spec.batch_size, lambda old: old["steps"] * old["batch_size"], "updates"
            )
        case PushSpec():
            return Estimate(None, None, None, "it depends on the hub and the line to it")
        case _:
            return _proportional(session, _past(session, JobKind.REWARD_MODEL), 1, lambda _: 1, "votes and ensemble")


def _finetune(session: Session, spec: FinetuneSpec) -> Estimate:
    effort = finetune_effort(spec)
    past = [(job, _parsed(job)) for job in queries.recent_jobs(session, JobKind.FINETUNE, limit=_LOOKED_AT)]
    alike = [(job, old) for job, old in past if old is not None and _same_shape(old, spec)]
    roots = queries.roots_of(session, [spec.checkpoint_id, *(old.checkpoint_id for _, old in alike)])
    alike = [(job, old) for job, old in alike if roots.get(old.checkpoint_id) == roots.get(spec.checkpoint_id)]
    events = queries.last_events(session, [job.id for job, _ in alike], EventKind.METRICS, limit=_EPOCHS_LOOKED_AT)
    totals, measured = [], []
    for job, old in alike:
        rates = _seconds_per_evaluation(events.get(job.id, []), finetune_effort(old))
        if rates is not None:
            totals.append(_seconds(effort, *rates))
            measured.append(job)
    if totals:
        hosts = {_host(job) for job in measured}
        return _from(totals, _peaks(session, measured), f"{_count(totals, 'past finetune')} of this model{_on(hosts)}")
    per_evaluation, hosts, _ = _sampling_pace(session, spec.checkpoint_id)
    if per_evaluation:
        totals = [_seconds(effort, pace, UPDATE_WEIGHT * pace) for pace in per_evaluation]
        basis = f"{_count(totals, 'sampling job')} of this model{_on(hosts)}, an update counted as {UPDATE_WEIGHT}"
        return _from(totals, [], f"{basis} evaluations of the network; the first finetune will tell it better")
    return _unknown(spec.checkpoint_id)


def _drawing(session: Session, checkpoint_id: UUID, evaluations: int, kind: JobKind) -> Estimate:
    paces, hosts, jobs = _sampling_pace(session, checkpoint_id)
    if not paces:
        return _unknown(checkpoint_id if kind is not JobKind.SAMPLE else None)
    peaks = _peaks(session, jobs)
    words = f"{_count(paces, 'past sampling job')} of this model{_on(hosts)}"
    if kind is JobKind.EVALUATE:
        words += "; the rewards' own time is not counted"
    return _from([pace * evaluations for pace in paces], peaks, words)


def _in_parts(spec: Spec, whole: Estimate) -> Estimate:
    """How many workers will be free for the parts, and whether they share cores, nobody knows: the time stays."""
    n = len(parts_of(spec))
    if n == 0 or whole.seconds is None:
        return whole
    return replace(whole, basis=f"{whole.basis}; by one worker, less where several do its {n} parts at once")


def _sampling_pace(session: Session, checkpoint_id: UUID) -> tuple[list[float], set[str], list[Job]]:
    """Seconds of one network evaluation in each past sampling job of models of this architecture."""
    past = _past(session, JobKind.SAMPLE)
    roots = queries.roots_of(session, [checkpoint_id, *(UUID(job.spec["checkpoint_id"]) for job in past)])
    root = roots.get(checkpoint_id)
    drawn = queries.samples_drawn_by(session, [job.id for job in past])
    jobs = [job for job in past if drawn.get(job.id) and roots.get(UUID(job.spec["checkpoint_id"])) == root]
    paces = [_took(job) / (drawn[job.id] * job.spec["steps"]) for job in jobs]
    return paces, {_host(job) for job in jobs}, jobs


def _proportional(
    session: Session, jobs: Sequence[Job], work: float, work_of: Callable[[dict[str, Any]], float], by: str
) -> Estimate:
    """Past jobs' times, in proportion to the work."""
    seconds = [_took(job) * work / work_of(job.spec) for job in jobs]
    if not seconds:
        return Estimate(None, None, None, "no job of this kind has finished here yet")
    peaks = _peaks(session, jobs)
    hosts = {_host(job) for job in jobs}
    return _from(seconds, peaks, f"{_count(seconds, 'past job')} of this kind{_on(hosts)}, in proportion to {by}")


def _from(seconds: Sequence[float], peaks: Sequence[int], basis: str) -> Estimate:
    between = (min(seconds), max(seconds)) if len(seconds) > 1 else None
    return Estimate(median(seconds), between, max(peaks, default=None), basis)


def _unknown(calibration_id: UUID | None) -> Estimate:
    return Estimate(None, None, None, "no job has used this model here yet", calibration_id)


def _past(session: Session, kind: JobKind) -> Sequence[Job]:
    return queries.succeeded_in_one_go(session, kind, limit=_LOOKED_AT)


def _took(job: Job) -> float:
    assert job.started_at is not None
    assert job.finished_at is not None
    return max(0.1, (job.finished_at - job.started_at).total_seconds())


def _parsed(job: Job) -> FinetuneSpec | None:
    try:
        spec = parse_spec(JobKind.FINETUNE, job.spec)
    except InvalidSpecError:
        return None  # a run of an older version
    return spec if isinstance(spec, FinetuneSpec) else None


def _same_shape(old: FinetuneSpec, new: FinetuneSpec) -> bool:
    """Whether one network evaluation of one run costs what one of the other does, batches of similar size granted."""
    return (
        old.precision == new.precision
        and (old.lora is None) == (new.lora is None)
        and old.gradient_checkpointing == new.gradient_checkpointing
        and old.shaping == new.shaping
    )


def _same_network(old: dict[str, Any], new: PretrainSpec) -> bool:
    return old["image_size"] == new.image_size and tuple(old["channels"]) == new.channels


def _seconds_per_evaluation(rows: Sequence[dict[str, Any]], effort: FinetuneEffort) -> tuple[float, float] | None:
    """Of the rollout and of the update: medians over the epochs in `rows`."""
    timed = [row for row in rows if row.get("seconds_rollout") and row.get("seconds_update")]
    if not timed:
        return None
    return (
        median(row["seconds_rollout"] for row in timed) / effort.rollout,
        median(row["seconds_update"] for row in timed) / effort.update,
    )


def _seconds(effort: FinetuneEffort, rollout: float, update: float) -> float:
    epochs = effort.n_epochs * (effort.rollout * rollout + effort.update * update)
    return epochs + effort.n_evaluations * effort.evaluation * rollout


def _peaks(session: Session, jobs: Sequence[Job]) -> list[int]:
    """Of each job that has reported its memory the newest report's peak: it is the job's highest."""
    reports = queries.last_events(session, [job.id for job in jobs], EventKind.WORKER, limit=1)
    return [int(row["peak_memory_bytes"]) for rows in reports.values() for row in rows]


def _host(job: Job) -> str:
    return (job.worker or "").partition(":")[0]


def _on(hosts: set[str]) -> str:
    named = sorted(host for host in hosts if host)
    return f" on {', '.join(named)}" if named else ""


def _count(found: Sequence[object], noun: str) -> str:
    return f"{len(found)} {noun}" if len(found) == 1 else f"{len(found)} {noun}s"
