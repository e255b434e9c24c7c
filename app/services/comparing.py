"""Several checkpoints on the same seeds: which samples stand side by side, at which epoch, in which order."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from sqlalchemy.orm import Session

from app.adapters.blobs import BlobStore
from app.db.models import Sample
from app.db.queries import comparing as queries
from app.db.queries import gallery as gallery_queries
from app.domain.enums import Choice
from app.services import checkpoints, gallery
from app.services.checkpoints import CheckpointView
from app.services.gallery import SampleView
from app.services.image_change import rms_change

MOST_COMPARED = 6
MOST_SEEDS = 256
"""Seeds that are looked at to sort them; the lowest that the checkpoints share."""


class Order(StrEnum):
    SEED = "seed"
    CHANGED = "changed"
    REWARD = "reward"
    DISAGREE = "disagree"


@dataclass(frozen=True)
class Row:
    """One seed: a sample of each panel (None where it was not drawn), and what the order goes by, in words."""

    seed: int
    cells: Sequence[SampleView | None]
    note: str


@dataclass(frozen=True)
class Comparison:
    """`panels` are the chosen checkpoints, `shown` what each panel shows at the scrubbed epoch."""

    panels: Sequence[CheckpointView]
    shown: Sequence[CheckpointView]
    rows: Sequence[Row]
    n_seeds: int
    steps: int
    eta: float
    last_epoch: int
    epoch: int
    rewards: Sequence[str]
    """Rewards that are known for samples of two of the panels."""
    reward: str | None
    why_unsorted: str | None
    """Why the order asked for could not be had."""


@dataclass
class _Votes:
    n: int = 0
    for_a: float = 0.0
    a: UUID = field(default_factory=lambda: UUID(int=0))

    @property
    def split(self) -> float:
        """0 where all agree, 1 where the votes are even; below two votes nobody can disagree."""
        share = self.for_a / self.n if self.n else 0.0
        return 4 * share * (1 - share) if self.n > 1 else 0.0


def compare(
    session: Session,
    blobs: BlobStore,
    panels: Sequence[CheckpointView],
    *,
    epoch: int | None,
    order: Order,
    reward: str | None,
    offset: int,
    limit: int,
) -> Comparison | None:
    """Rows `offset ... offset + limit - 1` of the seeds that the panels share; None where they share none.

    Args:
        epoch: every panel shows what its run had saved by then; None and anything later shows the panels themselves.
        reward: the one to sort by; None takes the first that is known.
    """
    found = queries.shared_seeds(session, [panel.id for panel in panels], limit=MOST_SEEDS)
    if found is None:
        return None
    steps, eta, seeds = found
    last = max((panel.epoch or 0 for panel in panels), default=0)
    at = last if epoch is None else max(0, min(epoch, last))
    samples: dict[int, dict[UUID, Sample]] = {}
    if order is not Order.SEED:
        samples = _by_seed(queries.samples_of(session, [panel.id for panel in panels], seeds, steps=steps, eta=eta))
    ids = {sample.id for row in samples.values() for sample in row.values()}
    values = gallery_queries.sample_rewards(session, ids) if order is Order.REWARD else {}
    known = _rewards_of_two(values, samples) if values else []
    by = reward if reward in known else (known[0] if known else None)
    keys, notes, why_not = _sorted_by(session, blobs, order, by, panels, samples, values)
    chosen = sorted(seeds, key=lambda seed: (-keys.get(seed, float("-inf")), seed))[offset : offset + limit]
    shown = _at_epoch(session, panels, at)
    cells = _views(session, shown, chosen, steps=steps, eta=eta)
    rows = [
        Row(seed, [cells.get((seed, checkpoint.id)) for checkpoint in shown], notes.get(seed, "")) for seed in chosen
    ]
    return Comparison(panels, shown, rows, len(seeds), steps, eta, last, at, known, by, why_not)


def _at_epoch(session: Session, panels: Sequence[CheckpointView], epoch: int) -> list[CheckpointView]:
    """What each panel's run had saved by `epoch`: its own checkpoint at the end, what it started from at 0."""
    if all(panel.epoch is None or panel.epoch <= epoch for panel in panels):
        return list(panels)
    saved = queries.saved_epochs(session, {panel.job_id for panel in panels if panel.job_id is not None})
    wanted: list[UUID] = []
    for panel in panels:
        before = [row for row in saved if row.job_id == panel.job_id and (row.epoch or 0) <= epoch]
        if panel.epoch is None or panel.epoch <= epoch:
            wanted.append(panel.id)
        else:
            wanted.append(before[-1].id if before else panel.parent_id or panel.id)
    views = {view.id: view for view in checkpoints.existing(session, wanted)}
    return [views.get(id, panel) for id, panel in zip(wanted, panels, strict=True)]


def _sorted_by(
    session: Session,
    blobs: BlobStore,
    order: Order,
    reward: str | None,
    panels: Sequence[CheckpointView],
    samples: Mapping[int, Mapping[UUID, Sample]],
    values: Mapping[UUID, Mapping[str, float]],
) -> tuple[dict[int, float], dict[int, str], str | None]:
    """(key by seed, the greatest first; what it says; why there is none)."""
    first = panels[0].id
    if order is Order.CHANGED:
        keys = _changes(blobs, first, samples)
        return keys, {seed: f"changed by {key:.1f} of 255" for seed, key in keys.items()}, None
    if order is Order.REWARD:
        if reward is None:
            return {}, {}, "No reward is known for samples of two of these checkpoints; evaluate them first."
        gains = _gains(panels, samples, values, reward)
        return gains, {seed: f"reward {gain:+.3g}".replace("-", "−") for seed, gain in gains.items()}, None
    if order is Order.DISAGREE:
        votes = _votes(session, samples)
        if not votes:
            return {}, {}, "Nobody has voted between these checkpoints on these seeds; a tournament asks raters to."
        names = {panel.id: panel.name for panel in panels}
        keys = {seed: vote.split + vote.n / 1e6 for seed, vote in votes.items()}
        return keys, {seed: _say(vote, names) for seed, vote in votes.items()}, None
    return {}, {}, None


def _changes(blobs: BlobStore, first: UUID, samples: Mapping[int, Mapping[UUID, Sample]]) -> dict[int, float]:
    """The largest change of any panel against the first, by seed."""
    keys: dict[int, float] = {}
    for seed, row in samples.items():
        if first not in row:
            continue
        found = [rms_change(blobs, row[first].sha256, other.sha256) for id, other in row.items() if id != first]
        known = [change for change in found if change is not None]
        if known:
            keys[seed] = max(known)
    return keys


def _gains(
    panels: Sequence[CheckpointView],
    samples: Mapping[int, Mapping[UUID, Sample]],
    values: Mapping[UUID, Mapping[str, float]],
    reward: str,
) -> dict[int, float]:
    """The last panel's reward minus the first's (of those that have one), by seed."""
    gains: dict[int, float] = {}
    for seed, row in samples.items():
        known = [values[row[p.id].id][reward] for p in panels if p.id in row and reward in values.get(row[p.id].id, {})]
        if len(known) > 1:
            gains[seed] = known[-1] - known[0]
    return gains


def _rewards_of_two(
    values: Mapping[UUID, Mapping[str, float]], samples: Mapping[int, Mapping[UUID, Sample]]
) -> list[str]:
    """Names of rewards by which some seed can be compared."""
    names: set[str] = set()
    for row in samples.values():
        counts: dict[str, int] = defaultdict(int)
        for sample in row.values():
            for name in values.get(sample.id, {}):
                counts[name] += 1
        names.update(name for name, n in counts.items() if n > 1)
    return sorted(names)


def _votes(session: Session, samples: Mapping[int, Mapping[UUID, Sample]]) -> dict[int, _Votes]:
    """The most divided votes on each seed, between two of the panels."""
    places = {sample.id: (seed, id) for seed, row in samples.items() for id, sample in row.items()}
    tallies: dict[tuple[UUID, UUID], _Votes] = {}
    for a, b, left, choice in queries.votes_between(session, places.keys()):
        if places[a][0] != places[b][0] or choice is Choice.SKIP:
            continue
        tally = tallies.setdefault((a, b), _Votes(a=places[a][1]))
        tally.n += 1
        share = 0.5 if choice.left_share is None else choice.left_share  # both bad: for neither
        tally.for_a += share if left == a else 1 - share
    found: dict[int, _Votes] = {}
    for (a, _), tally in tallies.items():
        seed = places[a][0]
        if seed not in found or (tally.split, tally.n) > (found[seed].split, found[seed].n):
            found[seed] = tally
    return found


def _say(vote: _Votes, names: Mapping[UUID, str]) -> str:
    votes = "vote" if vote.n == 1 else "votes"
    return f"{vote.for_a:g} of {vote.n} {votes} for {names[vote.a]}"


def _by_seed(rows: Sequence[Sample]) -> dict[int, dict[UUID, Sample]]:
    found: dict[int, dict[UUID, Sample]] = defaultdict(dict)
    for row in rows:
        found[row.seed][row.checkpoint_id] = row
    return found


def _views(
    session: Session, shown: Sequence[CheckpointView], seeds: Sequence[int], *, steps: int, eta: float
) -> dict[tuple[int, UUID], SampleView]:
    rows = queries.samples_of(session, [checkpoint.id for checkpoint in shown], seeds, steps=steps, eta=eta)
    return {(view.seed, view.checkpoint_id): view for view in gallery.views_of(session, rows)}
