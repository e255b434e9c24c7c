"""The same seeds at several checkpoints, side by side: rows are seeds, columns are checkpoints."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.db.queries import comparing
from app.db.queries import pages as queries
from app.services import gallery
from app.services.checkpoints import CheckpointView
from app.services.gallery import SampleView


@dataclass(frozen=True)
class EpochGrid:
    """`rows` are (seed, one cell a checkpoint); a cell is None where that checkpoint has not drawn the seed."""

    checkpoints: Sequence[CheckpointView]
    rows: Sequence[tuple[int, Sequence[SampleView | None]]]


def grid_of(
    session: Session, line: Sequence[CheckpointView], *, seeds: Iterable[int] | None = None, rows: int = 8
) -> EpochGrid | None:
    """Samples of the same noise (seed, steps, eta) along `line`; without `seeds`, those that most of it has drawn.

    None where no two checkpoints have drawn a seed with the same steps and eta: nothing could be compared.
    """
    ids = [checkpoint.id for checkpoint in line]
    wanted = None if seeds is None else set(seeds)
    recipes = comparing.shared_recipes(session, ids, limit=1000)
    if not recipes:
        return None
    _, steps, eta = next((recipe for recipe in recipes if wanted is None or recipe[0] in wanted), recipes[0])
    shared = [seed for seed, *recipe in recipes if recipe == [steps, eta] and (wanted is None or seed in wanted)]
    chosen = sorted(shared[:rows])
    found = gallery.views_of(session, queries.samples_on_seeds(session, ids, seeds=chosen))
    by_place = {
        (sample.checkpoint_id, sample.seed): sample for sample in found if (sample.steps, sample.eta) == (steps, eta)
    }
    cells = [(seed, [by_place.get((id, seed)) for id in ids]) for seed in chosen]
    return EpochGrid(line, cells) if cells else None
