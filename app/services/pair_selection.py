"""Draws the pairs that a rater may see next, by the campaign's strategy. `app.domain.pairing` holds the rules."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from uuid import UUID

from sqlalchemy.orm import Session

from app.db.models import Campaign, Checkpoint
from app.db.queries import campaigns as campaign_queries
from app.db.queries import labeling as queries
from app.db.queries import learning as learning_queries
from app.db.queries.labeling import Place
from app.domain import pairing
from app.domain.enums import Strategy

_SCAN_LIMIT = 5000


@dataclass(frozen=True)
class Candidate:
    """A pair that may be shown, and how it was chosen.

    `probability` is the chance of this pair in one draw, before pairs that are used up are drawn again. Under the
    uncertainty strategy it is the chance that the draw is of this kind (random or not) and has the pair: as its random
    pair, or among the candidates of which the most telling is shown. Where only random pairs count, the kind's share
    is the same for all of them.
    """

    samples: tuple[UUID, UUID]
    strategy: Strategy
    is_random: bool
    probability: float


class PairSource:
    """One rater's view of a campaign's pairs. `draw` takes constant time and may miss; `scan` finds all the rest."""

    def __init__(self, session: Session, campaign: Campaign, rater_id: UUID, rng: Random) -> None:
        self._session = session
        self._campaign = campaign
        self._rater_id = rater_id
        self._rng = rng
        self._checkpoints: Sequence[Checkpoint] = campaign_queries.checkpoints_of(session, campaign.id)

    def draw(self, n: int) -> Iterable[Candidate]:
        """Up to `n` random candidates, drawn as they are asked for; some may be used up already."""
        if self._campaign.strategy is Strategy.TOURNAMENT:
            return self._draw_twins(n)
        if self._campaign.strategy is Strategy.UNCERTAINTY:
            return self._draw_uncertain(n)
        return self._draw_uniform(n)

    def scan(self) -> list[Candidate]:
        """All pairs that the rater may still get (at most 5000 of them), shuffled."""
        ids = [checkpoint.id for checkpoint in self._checkpoints]
        if self._campaign.strategy is Strategy.TOURNAMENT:
            left = queries.servable_twins(
                self._session, self._campaign, ids[0], ids[1:], self._rater_id, limit=_SCAN_LIMIT
            )
            strategy = Strategy.TOURNAMENT
        else:
            left = queries.servable_pairs(self._session, self._campaign, ids, self._rater_id, limit=_SCAN_LIMIT)
            strategy = Strategy.UNIFORM
        self._rng.shuffle(left)
        return [Candidate(pair, strategy, is_random=True, probability=1 / len(left)) for pair in left]

    def _draw_uniform(self, n: int, *, share: float = 1.0) -> list[Candidate]:
        """Random pairs; `share` of the draws are such."""
        sizes = [checkpoint.n_samples for checkpoint in self._checkpoints]
        total = sum(sizes)
        if total < 2:
            return []
        drawn = [tuple(map(self._place, pairing.draw_distinct(total, self._rng))) for _ in range(n)]
        found = queries.samples_at(self._session, [place for pair in drawn for place in pair])
        probability = share / pairing.pair_count(total)
        return [
            Candidate((found[a], found[b]), Strategy.UNIFORM, is_random=True, probability=probability)
            for a, b in drawn
            if a in found and b in found
        ]

    def _place(self, position: int) -> Place:
        group, ordinal = pairing.locate(position, [checkpoint.n_samples for checkpoint in self._checkpoints])
        return Place(self._checkpoints[group].id, ordinal)

    def _draw_twins(self, n: int) -> list[Candidate]:
        shared = self._shared_noise
        playing = [row for row in self._checkpoints[1:] if row.id in shared]
        if not playing:
            return []
        drawn = [Place(row.id, self._rng.randrange(row.n_samples)) for row in self._rng.choices(playing, k=n)]
        twins = queries.twins_at(self._session, self._checkpoints[0].id, drawn)
        return [
            Candidate(
                twins[place],
                Strategy.TOURNAMENT,
                is_random=True,
                probability=1 / (len(playing) * shared[place.checkpoint_id]),
            )
            for place in drawn
            if place in twins
        ]

    @cached_property
    def _shared_noise(self) -> dict[UUID, int]:
        reference, *challengers = (checkpoint.id for checkpoint in self._checkpoints)
        return queries.shared_noise_counts(self._session, reference, challengers)

    def _draw_uncertain(self, n: int) -> Iterable[Candidate]:
        if self._n_sketches < 2:  # no reward model yet
            return self._draw_uniform(n)
        return (candidate for _ in range(n) for candidate in self._draw_one_uncertain())

    @cached_property
    def _n_sketches(self) -> int:
        return learning_queries.count_sketches(self._session, self._campaign.id)

    def _draw_one_uncertain(self) -> list[Candidate]:
        if self._rng.random() < pairing.RANDOM_SHARE:
            return self._draw_uniform(1, share=pairing.RANDOM_SHARE)
        return self._most_telling()

    def _most_telling(self) -> list[Candidate]:
        """Of some random pairs of the samples that the reward model knows, the one whose answer would teach it most."""
        from app.domain import uncertainty  # imports numpy

        n = self._n_sketches
        drawn = [pairing.draw_distinct(n, self._rng) for _ in range(pairing.UNCERTAINTY_CANDIDATES)]
        known = learning_queries.sketches_at(
            self._session, self._campaign.id, [place for pair in drawn for place in pair]
        )
        pool = [(known[a], known[b]) for a, b in drawn if a in known and b in known]
        if not pool:
            return []
        first, second = (uncertainty.decode([pair[side][1] for pair in pool]) for side in (0, 1))
        best = pool[int(uncertainty.information(first, second).argmax())]
        probability = (1 - pairing.RANDOM_SHARE) * min(1.0, len(pool) / pairing.pair_count(n))
        return [Candidate((best[0][0], best[1][0]), Strategy.UNCERTAINTY, is_random=False, probability=probability)]
