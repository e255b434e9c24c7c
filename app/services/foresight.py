"""What is likely to go wrong with a run, said before it starts, with what the saying rests on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from uuid import UUID

from sqlalchemy.orm import Session

from app.db.models import Job
from app.db.queries import alarms as alarm_queries
from app.db.queries import past_runs as queries
from app.domain.enums import EventKind, JobKind
from app.domain.specs import FinetuneSpec, RewardTerm, Spec

_FEW_SEEDS = 8
_LOOKED_AT = 30
_QUICK_GAIN = 0.41  # standard deviations an epoch that `critters-quick` gained when it was tuned (app.domain.presets)


@dataclass(frozen=True)
class Warning:
    """One sentence for the operator and one on where it comes from."""

    text: str
    basis: str


def warnings(session: Session, spec: Spec) -> list[Warning]:
    """What an operator should know before starting this job; empty where nothing is to be said."""
    if not isinstance(spec, FinetuneSpec):
        return []
    found = []
    for term in spec.reward:
        if term.reward_model_id is not None:
            found += _of_learned_reward(session, spec, term, term.reward_model_id)
    if spec.eval.n < _FEW_SEEDS:
        found.append(
            Warning(
                f"Alarms will rest on {spec.eval.n} fixed seeds: a fall must be large to be seen.",
                f"An alarm needs a 95 % interval of paired differences that leaves zero out; use {_FEW_SEEDS} or more.",
            )
        )
    return found


def _of_learned_reward(session: Session, spec: FinetuneSpec, term: RewardTerm, model_id: UUID) -> list[Warning]:
    model = queries.reward_model(session, model_id)
    if model is None:
        return []
    found = []
    if model.accuracy_low is not None and model.accuracy_low <= 0.5:
        found.append(
            Warning(
                f"“{model.name}” cannot be told from guessing yet: collect more votes first.",
                f"The interval of its held-out accuracy begins at {model.accuracy_low:.0%}; a coin has 50%.",
            )
        )
    spread = queries.reward_spread(session, term.key)
    if spread is None or spread[2] == 0:
        return found
    n, mean, deviation, largest = spread
    reach = (largest - mean) / deviation
    gain, source = _gain_an_epoch(session, spec)
    past = _first_alarms(session, spec)
    if past:
        found.append(
            Warning(
                f"{model.n_labels} labels: expect over-optimisation after about {round(median(past))} epochs.",
                f"That is where past finetunes toward learned rewards raised their first alarm here ({len(past)} of "
                "them, median).",
            )
        )
    elif gain is not None:
        epochs = max(1, math.ceil(reach / gain))
        if epochs <= spec.epochs:
            found.append(
                Warning(
                    f"{model.n_labels} labels: expect over-optimisation after about {epochs} epochs.",
                    f"The best of {n} images that this reward has seen lies {reach:.1f} standard deviations above "
                    f"their mean; {source}, so from then on the average sample lies beyond everything a person has "
                    "judged, where nothing holds the reward to their taste (Gao et al. 2022, arXiv:2210.10760).",
                )
            )
    else:
        found.append(
            Warning(
                f"{model.n_labels} labels: past {largest:.3g} this reward is on its own.",
                f"That is the best of {n} images it has seen ({reach:.1f} standard deviations above their mean); how "
                "fast a run gets there is not known before the first one.",
            )
        )
    return found


def _gain_an_epoch(session: Session, spec: FinetuneSpec) -> tuple[float | None, str]:
    """Standard deviations of the reward that an epoch gains, and who says so."""
    gains = []
    jobs = [job.id for job in _at_this_learning_rate(session, spec)]
    for events in queries.first_events(session, jobs, EventKind.METRICS, limit=6).values():
        rows = [row for row in events if row.get("reward_mean") is not None and row.get("reward_std")]
        if len(rows) >= 2 and rows[-1]["epoch"] > rows[0]["epoch"]:
            first, last = rows[0], rows[-1]
            gained = abs(last["reward_mean"] - first["reward_mean"]) / first["reward_std"]
            gains.append(gained / (last["epoch"] - first["epoch"]))
    if gains and median(gains) > 0:
        gain = median(gains)
        runs = "1 past run" if len(gains) == 1 else f"{len(gains)} past runs"
        return gain, f"{runs} at this learning rate gained {gain:.2f} of them an epoch"
    if spec.preset == "critters-quick":
        return _QUICK_GAIN, f"this preset gained {_QUICK_GAIN} of them an epoch when it was tuned"
    return None, ""


def _first_alarms(session: Session, spec: FinetuneSpec) -> Sequence[int]:
    """The epochs of the first alarms of past finetunes toward learned rewards at this learning rate."""
    jobs = [job.id for job in _at_this_learning_rate(session, spec) if _is_learned(job)]
    return [int(alarms[0].payload["epoch"]) for alarms in alarm_queries.alarms_of_jobs(session, jobs).values()]


def _at_this_learning_rate(session: Session, spec: FinetuneSpec) -> list[Job]:
    jobs = queries.recent_jobs(session, JobKind.FINETUNE, limit=_LOOKED_AT)
    return [job for job in jobs if job.spec.get("lr", {}).get("peak") == spec.lr.peak]


def _is_learned(job: Job) -> bool:
    return any(term.get("reward_model_id") for term in job.spec.get("reward", []))
