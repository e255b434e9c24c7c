"""Leases: overlap, budget, expiry, repeats and strategies, on both databases."""

import re
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from scipy.stats import chisquare
from sqlalchemy import event, func, select, update

from app.config import Settings
from app.db.models import (
    Campaign,
    Comparison,
    Pair,
    Preference,
    Sample,
)  # fmt: skip
from app.db.queries import learning as learning_queries
from app.db.session import Database
from app.domain import uncertainty
from app.domain.enums import Choice, Role, Strategy
from app.domain.errors import ConflictError, GoneError, InvalidSpecError
from app.services import accounts, campaigns, labeling, leasing
from app.services.accounts import Principal
from tests.labeling_data import add_checkpoint

UNDO = 3600


class Lab:
    """A campaign and its raters, driven through the services."""

    def __init__(self, database: Database, settings: Settings, clock: Any) -> None:
        self.database, self.settings, self.clock = database, settings, clock
        self.rng = Random(0)
        self.owner = self.person("owner", Role.OPERATOR)

    def person(self, name: str, role: Role = Role.RATER) -> Principal:
        with self.database.writer() as session:
            user = accounts.ensure_user(session, name, role, self.clock.now())
            return Principal(user_id=user.id, name=name, role=role)

    def campaign(self, checkpoint_ids: list[UUID], **fields: Any) -> UUID:
        with self.database.writer() as session:
            return campaigns.create_campaign(
                session, name="c", question="Which?", checkpoint_ids=checkpoint_ids, open=True,
                creator=self.owner, now=self.clock.now(), **fields,
            ).id  # fmt: skip

    def lease(
        self, campaign_id: UUID, rater: Principal, n: int = 1, holding: frozenset[UUID] = frozenset()
    ) -> list[UUID]:
        with self.database.writer() as session:
            views = leasing.lease_comparisons(
                session, campaign_id, rater=rater, n=n, holding=holding, now=self.clock.now(), lease_seconds=900,
                rng=self.rng,
            )  # fmt: skip
            return [view.id for view in views]

    def vote(self, comparison_id: UUID, rater: Principal, choice: Choice = Choice.LEFT, ms: int | None = None) -> None:
        with self.database.writer() as session:
            labeling.record_preference(
                session, comparison_id, rater=rater, choice=choice, response_ms=ms, now=self.clock.now(),
                undo_seconds=UNDO,
            )  # fmt: skip

    def undo(self, comparison_id: UUID, rater: Principal) -> None:
        with self.database.writer() as session:
            labeling.undo_preference(
                session, comparison_id, rater=rater, now=self.clock.now(), undo_seconds=UNDO, lease_seconds=900
            )

    def rate(self, campaign_id: UUID, rater: Principal, n: int) -> int:
        """Lease and vote one at a time until `n` votes or no pair is left. Returns the votes given."""
        for given in range(n):
            leases = self.lease(campaign_id, rater)
            if not leases:
                return given
            self.vote(leases[0], rater)
        return n

    def all(self, entity: Any, **where: Any) -> list[Any]:
        with self.database.reader() as session:
            return list(session.scalars(select(entity).filter_by(**where)))

    def one(self, entity: Any, id: Any) -> Any:
        with self.database.reader() as session:
            return session.get_one(entity, id)


@pytest.fixture
def lab(database: Database, settings: Settings, clock: Any) -> Lab:
    return Lab(database, settings, clock)


@pytest.fixture
def pool(database: Database, settings: Settings) -> Callable[..., UUID]:
    return lambda name="base", seeds=range(5), **more: add_checkpoint(database, settings, name, seeds, **more)


def pairs_seen(lab: Lab, rater: Principal) -> list[frozenset[UUID]]:
    rows = lab.all(Comparison, rater_id=rater.user_id, repetition=0, expired=False)
    return [frozenset({row.left_sample_id, row.right_sample_id}) for row in rows]


def test_a_rater_is_served_every_pair_of_a_small_pool_once_and_then_none(lab: Lab, pool: Callable[..., UUID]):
    campaign, ada = lab.campaign([pool()]), lab.person("ada")
    lab.rate(campaign, ada, 50)
    seen = pairs_seen(lab, ada)
    assert len(seen) == len(set(seen)) == 10
    assert lab.lease(campaign, ada) == []


def test_overlap_is_never_passed_and_is_filled_up_before_new_pairs_begin(lab: Lab, pool: Callable[..., UUID]):
    campaign = lab.campaign([pool()], overlap=2)
    ada, bob, cy = lab.person("ada"), lab.person("bob"), lab.person("cy")
    lab.rate(campaign, ada, 4)
    lab.rate(campaign, bob, 4)
    assert set(pairs_seen(lab, ada)) == set(pairs_seen(lab, bob))
    lab.rate(campaign, cy, 50)
    assert not set(pairs_seen(lab, cy)) & set(pairs_seen(lab, ada))
    assert {pair.n_leased for pair in lab.all(Pair)} == {1, 2}


def test_who_joins_a_pair_inherits_how_it_was_chosen(lab: Lab, pool: Callable[..., UUID]):
    campaign = lab.campaign([pool()], overlap=2)
    ada, bob = lab.person("ada"), lab.person("bob")
    lab.lease(campaign, ada)
    lab.lease(campaign, bob)
    first, second = lab.all(Comparison)
    assert first.pair_id == second.pair_id
    assert first.selection_probability == second.selection_probability == pytest.approx(1 / 10)


def test_the_budget_counts_votes_and_open_leases(lab: Lab, pool: Callable[..., UUID]):
    campaign = lab.campaign([pool()], budget=5)
    ada, bob = lab.person("ada"), lab.person("bob")
    assert len(lab.lease(campaign, ada, 3)) == 3
    assert len(lab.lease(campaign, bob, 20)) == 2
    assert lab.lease(campaign, lab.person("cy"), 1) == []
    assert lab.one(Campaign, campaign).n_leased == 5


def test_open_leases_come_back_before_new_ones_unless_they_are_held(lab: Lab, pool: Callable[..., UUID]):
    campaign, ada = lab.campaign([pool()]), lab.person("ada")
    first = lab.lease(campaign, ada, 2)
    assert lab.lease(campaign, ada, 2) == first
    more = lab.lease(campaign, ada, 2, holding=frozenset(first))
    assert len(set(first) | set(more)) == 4


def test_a_rater_holds_twenty_pairs_at_most(lab: Lab, pool: Callable[..., UUID]):
    campaign, ada = lab.campaign([pool(seeds=range(20))]), lab.person("ada")
    held = lab.lease(campaign, ada, 15)
    held += lab.lease(campaign, ada, 20, holding=frozenset(held))
    assert len(set(held)) == 20
    with pytest.raises(ConflictError, match="hold 20"):
        lab.lease(campaign, ada, 1, holding=frozenset(held))


def test_an_overdue_lease_goes_to_whoever_asks_next_and_its_late_vote_is_refused(lab: Lab, pool: Callable[..., UUID]):
    campaign = lab.campaign([pool(seeds=range(2))], budget=1)
    ada, bob = lab.person("ada"), lab.person("bob")
    (lease,) = lab.lease(campaign, ada)
    assert lab.lease(campaign, bob) == []
    lab.clock.advance(seconds=901)
    assert len(lab.lease(campaign, bob)) == 1
    with pytest.raises(GoneError):
        lab.vote(lease, ada)
    assert lab.one(Comparison, lease).expired
    assert [pair.n_leased for pair in lab.all(Pair)] == [1]
    assert lab.one(Campaign, campaign).n_leased == 1


def test_an_overdue_lease_that_nobody_took_is_renewed_for_its_rater(lab: Lab, pool: Callable[..., UUID]):
    campaign, ada = lab.campaign([pool()]), lab.person("ada")
    (lease,) = lab.lease(campaign, ada)
    lab.clock.advance(seconds=901)
    with pytest.raises(GoneError):
        lab.vote(lease, ada)
    assert lab.lease(campaign, ada) == [lease]
    lab.vote(lease, ada)


def test_holding_a_pair_keeps_it(lab: Lab, pool: Callable[..., UUID]):
    campaign, ada, bob = lab.campaign([pool()]), lab.person("ada"), lab.person("bob")
    (lease,) = lab.lease(campaign, ada)
    lab.clock.advance(seconds=600)
    lab.lease(campaign, ada, holding=frozenset({lease}))
    lab.clock.advance(seconds=600)
    lab.lease(campaign, bob)
    lab.vote(lease, ada)


def test_an_expired_pair_can_come_back_to_the_same_rater(lab: Lab, pool: Callable[..., UUID]):
    campaign = lab.campaign([pool(seeds=range(2))])
    ada, bob = lab.person("ada"), lab.person("bob")
    lab.lease(campaign, ada)
    lab.clock.advance(seconds=901)
    lab.lease(campaign, bob)
    lab.clock.advance(seconds=901)
    assert lab.rate(campaign, ada, 5) == 1


def test_repeats_are_rare_swap_sides_and_take_no_place_of_a_pair(lab: Lab, pool: Callable[..., UUID]):
    campaign, ada = lab.campaign([pool(seeds=range(40))]), lab.person("ada")
    assert lab.rate(campaign, ada, 120) == 120
    leases = sorted(lab.all(Comparison), key=lambda row: (row.leased_at, str(row.id)))
    repeats = [row for row in leases if row.repeat_of]
    assert 1 <= len(repeats) <= 15
    by_id = {row.id: row for row in leases}
    for row in repeats:
        first = by_id[row.repeat_of]
        assert (row.left_sample_id, row.right_sample_id) == (first.right_sample_id, first.left_sample_id)
        assert row.pair_id == first.pair_id
    assert max(Counter(row.repeat_of for row in repeats).values()) == 1
    assert {pair.n_leased for pair in lab.all(Pair)} == {1}
    assert lab.one(Campaign, campaign).n_leased == 120


def test_sides_do_not_tell_which_sample_has_the_smaller_id(lab: Lab, pool: Callable[..., UUID]):
    campaign, ada = lab.campaign([pool(seeds=range(30))]), lab.person("ada")
    lab.rate(campaign, ada, 80)
    smaller_left = sum(row.left_sample_id < row.right_sample_id for row in lab.all(Comparison))
    assert chisquare([smaller_left, 80 - smaller_left]).pvalue > 1e-6  # by chance once in a million runs


def test_a_tournament_pairs_samples_of_the_same_noise_against_the_first_checkpoint(lab: Lab, pool: Callable[..., UUID]):
    base, first, second = pool("base", range(6)), pool("one", range(3, 9)), pool("two", range(2))
    campaign, ada = lab.campaign([base, first, second], strategy=Strategy.TOURNAMENT), lab.person("ada")
    assert lab.rate(campaign, ada, 50) == 5  # seeds 3, 4, 5 and 0, 1
    samples = {row.id: row for row in lab.all(Sample)}
    for row in lab.all(Comparison):
        left, right = samples[row.left_sample_id], samples[row.right_sample_id]
        assert left.seed == right.seed
        assert base in (left.checkpoint_id, right.checkpoint_id) != (base, base)
        assert row.is_random
        assert row.strategy is Strategy.TOURNAMENT


def test_samples_drawn_with_other_steps_are_not_the_same_noise(lab: Lab, pool: Callable[..., UUID]):
    base, other = pool("base", range(4), steps=20), pool("other", range(4), steps=40)
    with pytest.raises(InvalidSpecError, match="share no seeds"):
        lab.campaign([base, other], strategy=Strategy.TOURNAMENT)


def _publish(lab: Lab, campaign: UUID, means: np.ndarray, roots: np.ndarray) -> list[UUID]:
    """What a worker publishes of the campaign's samples, by ordinal. Returns their ids in that order."""
    with lab.database.writer() as session:
        ids = list(session.scalars(select(Sample.id).order_by(Sample.ordinal)))
        vectors = uncertainty.encode(means, roots)
        learning_queries.replace_sketches(session, campaign, list(zip(ids, vectors, strict=True)))
    return ids


def test_uncertainty_asks_what_is_open_and_not_known_and_keeps_a_random_fifth(lab: Lab, pool: Callable[..., UUID]):
    """Half of the samples are known exactly, so pairs of them teach nothing."""
    campaign, ada = lab.campaign([pool(seeds=range(60))], strategy=Strategy.UNCERTAINTY), lab.person("ada")
    known = np.arange(60) % 2 == 0
    roots = np.where(known[:, None], 0.0, 3 * np.eye(60))
    ids = _publish(lab, campaign, 0.1 * np.arange(60), roots)
    lab.rate(campaign, ada, 150)
    place = {id: n for n, id in enumerate(ids)}
    rows = [row for row in lab.all(Comparison) if not row.repeat_of]
    picked = [row for row in rows if not row.is_random]
    assert 0.05 < 1 - len(picked) / len(rows) < 0.4  # by chance once in a million runs
    both_known = {
        kind: np.mean(
            [known[place[row.left_sample_id]] and known[place[row.right_sample_id]] for row in rows
             if row.is_random is kind]
        )
        for kind in (True, False)
    }  # fmt: skip
    assert both_known[False] == 0
    assert both_known[True] > 0
    probabilities = {row.is_random: round(row.selection_probability, 9) for row in rows}
    assert probabilities == {True: round(0.2 / 1770, 9), False: round(0.8 * 16 / 1770, 9)}
    assert {row.strategy for row in picked} == {Strategy.UNCERTAINTY}


def test_a_new_reward_model_replaces_what_pair_selection_knows(lab: Lab, pool: Callable[..., UUID]):
    campaign = lab.campaign([pool(seeds=range(10))], strategy=Strategy.UNCERTAINTY)
    _publish(lab, campaign, np.zeros(10), np.eye(10))
    ids = _publish(lab, campaign, np.arange(10.0), np.eye(10))
    with lab.database.reader() as session:
        assert learning_queries.count_sketches(session, campaign) == 10
        found = learning_queries.sketches_at(session, campaign, [9, 3, 3, 10])
    assert {position: id for position, (id, _) in found.items()} == {9: ids[9], 3: ids[3]}


def test_uncertainty_draws_uniformly_until_there_is_a_reward_model(lab: Lab, pool: Callable[..., UUID]):
    campaign, ada = lab.campaign([pool()], strategy=Strategy.UNCERTAINTY), lab.person("ada")
    lab.lease(campaign, ada, 5)
    assert all(row.is_random for row in lab.all(Comparison))


def test_a_hole_among_the_ordinals_is_passed_over(lab: Lab, pool: Callable[..., UUID]):
    base = pool()
    with lab.database.writer() as session:
        session.execute(update(Sample).where(Sample.ordinal == 4).values(ordinal=9))
    campaign, ada = lab.campaign([base]), lab.person("ada")
    assert lab.rate(campaign, ada, 50) == 10


def test_undo_opens_the_lease_again_for_the_same_rater(lab: Lab, pool: Callable[..., UUID]):
    campaign, ada = lab.campaign([pool()]), lab.person("ada")
    (lease,) = lab.lease(campaign, ada)
    lab.vote(lease, ada)
    lab.undo(lease, ada)
    lab.undo(lease, ada)
    assert lab.all(Preference) == []
    assert lab.lease(campaign, ada) == [lease]
    assert lab.one(Campaign, campaign).n_leased == 1
    lab.vote(lease, ada, Choice.TIE)
    assert [row.choice for row in lab.all(Preference)] == [Choice.TIE]


def test_a_changed_vote_keeps_its_first_response_time(lab: Lab, pool: Callable[..., UUID]):
    campaign, ada = lab.campaign([pool()]), lab.person("ada")
    (lease,) = lab.lease(campaign, ada)
    lab.vote(lease, ada, Choice.LEFT, ms=700)
    lab.clock.advance(seconds=10)
    lab.vote(lease, ada, Choice.RIGHT, ms=9000)
    (vote,) = lab.all(Preference)
    assert (vote.choice, vote.response_ms) == (Choice.RIGHT, 700)
    assert vote.updated_at - vote.created_at == timedelta(seconds=10)


def test_a_vote_is_final_once_undo_has_run_out(lab: Lab, pool: Callable[..., UUID]):
    campaign, ada = lab.campaign([pool()]), lab.person("ada")
    (lease,) = lab.lease(campaign, ada)
    lab.vote(lease, ada)
    lab.clock.advance(seconds=UNDO + 1)
    with pytest.raises(ConflictError, match="too long ago"):
        lab.vote(lease, ada, Choice.RIGHT)
    with pytest.raises(ConflictError, match="too long ago"):
        lab.undo(lease, ada)
    lab.vote(lease, ada)  # the same vote again is no change


def test_what_is_counted_agrees_with_what_is_there(lab: Lab, pool: Callable[..., UUID]):
    """After a mixed history, every counter equals its definition."""
    campaign = lab.campaign([pool(seeds=range(6))], overlap=2, budget=25)
    raters = [lab.person(name) for name in ("ada", "bob", "cy")]
    for turn in range(40):
        rater = raters[lab.rng.randrange(3)]
        leases = lab.lease(campaign, rater, lab.rng.randrange(1, 5))
        for lease in leases[: lab.rng.randrange(3)]:
            lab.vote(lease, rater)
            if lab.rng.random() < 0.2:
                lab.undo(lease, rater)
        lab.clock.advance(seconds=1000 if turn % 7 == 0 else 30)
    live = [row for row in lab.all(Comparison) if not row.expired]
    assert lab.one(Campaign, campaign).n_leased == len(live) <= 25
    places = Counter(row.pair_id for row in live if row.repetition == 0)
    assert {pair.id: pair.n_leased for pair in lab.all(Pair)} == {pair.id: places[pair.id] for pair in lab.all(Pair)}
    assert max(places.values()) <= 2
    with lab.database.reader() as session:
        voted = session.scalar(select(func.count()).select_from(Preference))
    assert voted == sum(row.closed_at is not None for row in live)


def test_no_statement_of_a_lease_or_a_vote_reads_a_whole_table(
    lab: Lab, database: Database, pool: Callable[..., UUID]
) -> None:
    """What a million votes would make slow shows in the plan of any table's statements, however small it is."""
    campaign_id = lab.campaign([pool(seeds=range(20))], overlap=3)
    others, rater = [lab.person("a"), lab.person("b")], lab.person("c")
    for other in others:
        lab.rate(campaign_id, other, 30)
    lab.rate(campaign_id, rater, 30)  # enough for repeats to begin
    statements: dict[str, Any] = {}

    def remember(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if not many and statement.startswith(("SELECT", "UPDATE", "DELETE")):
            statements.setdefault(statement, parameters)

    event.listen(database.engine, "before_cursor_execute", remember)
    try:
        lab.rate(campaign_id, rater, 20)
    finally:
        event.remove(database.engine, "before_cursor_execute", remember)
    assert len(statements) > 10
    postgres = database.engine.dialect.name == "postgresql"
    with database.engine.connect() as connection:
        if postgres:
            connection.exec_driver_sql("SET enable_seqscan = off")
        for statement, parameters in statements.items():
            explain = "EXPLAIN " if postgres else "EXPLAIN QUERY PLAN "
            plan = [str(row) for row in connection.exec_driver_sql(explain + statement, parameters)]
            whole = [line for line in plan if re.search(r"Seq Scan on|SCAN (?!CONSTANT|\(subquery)", line)]
            assert not whole, (statement, plan)
