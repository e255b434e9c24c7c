"""Checkpoints measured against the base they come from, on the same seeds with the same noise (thesis, table 5.1)."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.db.models import Checkpoint
from app.db.queries import evaluation as queries
from app.db.queries import gallery
from app.db.queries import pages as page_queries
from app.db.queries.evaluation import Values
from app.domain.documented import Documented
from app.domain.errors import ConflictError
from app.domain.rewards import BUILT_IN_REWARDS, PREFERENCE
from app.domain.tables import PairedRow, compare_on_paired_seeds
from app.services.checkpoints import CheckpointView, require_checkpoint, views_of

MOST_CHECKPOINTS = 12
_UNITS = {reward.name: reward.unit for reward in BUILT_IN_REWARDS}
_TITLES = {reward.name: reward.title for reward in BUILT_IN_REWARDS}


class MeanView(BaseModel):
    """A mean over seeds and its standard error, in the reward's unit."""

    mean: float
    sem: float


class EvaluationRow(Documented):
    """One reward of one checkpoint beside its base."""

    reward: str
    """The name that the values are stored under."""
    title: str
    """The reward in words, with its unit."""
    checkpoint_id: UUID
    checkpoint_name: str
    base_id: UUID
    base_name: str
    base: MeanView
    finetuned: MeanView
    difference: MeanView
    """Finetuned minus base; the error is that of the paired differences."""
    n: int
    """Seeds that both drew with the same recipe and whose reward is known."""
    steps: int
    eta: float


@dataclass(frozen=True)
class Evaluation:
    """A table, and what is missing in it."""

    rows: list[EvaluationRow]
    lines: list[PairedRow]
    """The same rows as the exports write them."""
    unmeasured: list[CheckpointView]
    """Checkpoints that share no measured seeds with their base."""


def candidates(session: Session, *, limit: int = MOST_CHECKPOINTS) -> list[CheckpointView]:
    """The results of the newest runs: what a table shows when nobody chose."""
    return views_of(session, queries.results_of_runs(session, limit=limit))


def evaluate(session: Session, checkpoint_ids: Sequence[UUID], rewards: Sequence[str] = ()) -> Evaluation:
    """The table of these checkpoints; every reward that was measured, unless some are named.

    Raises:
        NotFoundError: a checkpoint does not exist.
        ConflictError: too many checkpoints.
    """
    if len(checkpoint_ids) > MOST_CHECKPOINTS:
        raise ConflictError(f"A table holds at most {MOST_CHECKPOINTS} checkpoints; choose fewer.")
    rows = [require_checkpoint(session, id) for id in dict.fromkeys(checkpoint_ids)]
    pairs = [(row, base_of(session, row)) for row in rows if row.parent_id is not None]
    involved = {each.id for pair in pairs for each in pair}
    measured = gallery.measurements(session, involved)
    names = sorted({one.name for ones in measured.values() for one in ones if not rewards or one.name in rewards})
    values = queries.rewards_by_seed(session, involved, names)
    titles = reward_titles(session, names)
    found: list[tuple[EvaluationRow, PairedRow]] = []
    for name in names:
        for checkpoint, base in pairs:
            paired = _row(values, name, titles[name], checkpoint, base)
            if paired is not None:
                found.append(paired)
    known = {row.checkpoint_id for row, _ in found}
    unmeasured = [row for row, _ in pairs if row.id not in known]
    return Evaluation([row for row, _ in found], [line for _, line in found], views_of(session, unmeasured))


def base_of(session: Session, checkpoint: Checkpoint) -> Checkpoint:
    """The base at the root of a checkpoint's line; a base is its own."""
    while checkpoint.parent_id is not None:
        parent = session.get(Checkpoint, checkpoint.parent_id)
        if parent is None:
            break
        checkpoint = parent
    return checkpoint


def reward_titles(session: Session, names: Sequence[str]) -> dict[str, str]:
    """Stored names of rewards in words, with their units."""
    learned = {f"{PREFERENCE}:{row.id}": row.name for row in page_queries.reward_models(session)}
    titles = {}
    for name in names:
        plain, _, params = name.partition("(")
        title = f"learned: {learned[plain]}" if plain in learned else _TITLES.get(plain, plain.replace("_", " "))
        unit = _UNITS.get(plain.partition(":")[0])
        titles[name] = title + (f" ({params}" if params else "") + (f", {unit}" if unit else "")
    return titles


def _row(
    values: Values, name: str, title: str, checkpoint: Checkpoint, base: Checkpoint
) -> tuple[EvaluationRow, PairedRow] | None:
    """Over the recipe with the most seeds that both have."""
    before, after = values[base.id][name], values[checkpoint.id][name]
    shared = {recipe: len(before[recipe].keys() & after[recipe].keys()) for recipe in before.keys() & after.keys()}
    if not shared:
        return None
    recipe = max(shared, key=lambda each: (shared[each], each))
    line = compare_on_paired_seeds(title, checkpoint.name, before[recipe], after[recipe])
    if line is None:
        return None
    row = EvaluationRow(
        reward=name,
        title=title,
        checkpoint_id=checkpoint.id,
        checkpoint_name=checkpoint.name,
        base_id=base.id,
        base_name=base.name,
        base=MeanView(mean=line.base.mean, sem=line.base.sem),
        finetuned=MeanView(mean=line.finetuned.mean, sem=line.finetuned.sem),
        difference=MeanView(mean=line.difference.mean, sem=line.difference.sem),
        n=line.n,
        steps=recipe.steps,
        eta=recipe.eta,
    )
    return row, line
