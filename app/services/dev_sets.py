"""The development set of a run (thesis, table A.1): held-out seeds at the base and at a saved epoch."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from sqlalchemy.orm import Session

from app.db.queries import comparing, gallery
from app.db.queries import evaluation as queries
from app.db.queries.dev_trajectories import dev_trajectories
from app.db.queries.evaluation import Recipe
from app.domain.enums import JobKind
from app.domain.errors import ConflictError, NotFoundError
from app.domain.specs import FinetuneSpec
from app.services import jobs
from app.services.evaluation import reward_titles
from app.services.gallery import SampleView, views_of


class DevOrder(StrEnum):
    SEED = "seed"
    BEFORE = "before"
    AFTER = "after"
    DIFFERENCE = "difference"


@dataclass(frozen=True)
class DevRow:
    """One held-out seed: what the base drew, what the epoch draws, and the reward of both."""

    seed: int
    base: SampleView
    current: SampleView
    before: float | None
    after: float | None
    trajectory: list[float]
    """The optimised reward of x_0_pred along the denoising trajectory at this epoch; empty where it was not scored."""

    @property
    def difference(self) -> float | None:
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True)
class DevSet:
    """The held-out seeds of a run at one of its saved epochs."""

    epoch: int
    epochs: list[int]
    checkpoint_id: UUID
    base_id: UUID
    reward: str
    rewards: Mapping[str, str]
    """Rewards that are known here, by stored name, in words."""
    rows: list[DevRow]
    total: int


def dev_set(
    session: Session,
    job_id: UUID,
    *,
    epoch: int | None = None,
    reward: str | None = None,
    sort: DevOrder = DevOrder.SEED,
    descending: bool = False,
    offset: int = 0,
    limit: int = 16,
) -> DevSet:
    """One page of a finetune's held-out seeds at `epoch` (the last one saved by default).

    Args:
        sort: rows without the value come last.

    Raises:
        NotFoundError: there is no such job or epoch, or nothing was saved yet.
        ConflictError: the job is no finetune.
    """
    job = jobs.get_job(session, job_id)
    if job.kind is not JobKind.FINETUNE:
        raise ConflictError(f"{job.name} is a {job.kind.value.replace('_', ' ')} job; only finetunes have a dev set.")
    spec = FinetuneSpec.model_validate(job.spec)
    saved = {row.epoch: row for row in comparing.saved_epochs(session, [job_id]) if row.epoch is not None}
    if not saved:
        raise NotFoundError("This run has not saved an epoch yet; look again after its first evaluation.")
    chosen = max(saved) if epoch is None else epoch
    if chosen not in saved:
        raise NotFoundError(f"Epoch {chosen} was not saved; saved are: {', '.join(map(str, saved))}.")
    recipe = Recipe(spec.steps, spec.eta)
    seeds = range(spec.eval.seed, spec.eval.seed + spec.eval.n)
    ids = (spec.checkpoint_id, saved[chosen].id)
    drawn = queries.samples_with_seeds(session, ids, recipe, seeds)
    shared = [seed for seed in seeds if seed in drawn[ids[0]] and seed in drawn[ids[1]]]
    known = gallery.sample_rewards(session, [drawn[id][seed].id for id in ids for seed in shared])
    names = sorted({name for values in known.values() for name in values})
    optimised = [term.key for term in spec.reward]
    name = reward if reward in names else next((key for key in optimised if key in names), names[0] if names else "")
    views = {view.id: view for view in views_of(session, [drawn[id][seed] for id in ids for seed in shared])}
    along = _trajectories(session, job_id, chosen, spec)
    rows = []
    for seed in shared:
        base, current = (views[drawn[id][seed].id] for id in ids)
        before, after = base.rewards.get(name), current.rewards.get(name)
        rows.append(DevRow(seed, base, current, before, after, along.get(seed, [])))
    rows.sort(key=lambda row: _order(row, sort, descending))
    return DevSet(
        epoch=chosen,
        epochs=sorted(saved),
        checkpoint_id=ids[1],
        base_id=ids[0],
        reward=name,
        rewards=reward_titles(session, names),
        rows=rows[offset : offset + limit],
        total=len(rows),
    )


def _trajectories(session: Session, job_id: UUID, epoch: int, spec: FinetuneSpec) -> dict[int, list[float]]:
    values, n = dev_trajectories(session, job_id, epoch), spec.eval.n
    steps = len(values) // n
    return {spec.eval.seed + place: values[place * steps : (place + 1) * steps] for place in range(n)} if steps else {}


def _order(row: DevRow, sort: DevOrder, descending: bool) -> tuple[bool, float, int]:
    value = float(row.seed) if sort is DevOrder.SEED else getattr(row, sort.value)
    sign = -1.0 if descending else 1.0
    return value is None, 0.0 if value is None else sign * value, row.seed
