"""Many raters at once: no vote lost or doubled, overlap and budget never passed, on both databases."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from random import Random
from threading import Barrier, Semaphore
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from app.config import Settings
from app.db.models import Campaign, Comparison, Pair, Preference, Sample
from app.db.session import Database
from app.domain.enums import Choice, Role
from app.services import accounts, campaigns, gold, labeling, leasing
from app.services.accounts import Principal
from tests.labeling_data import add_checkpoint

RATERS, VOTES, BUDGET = 8, 30, 200


def test_raters_who_vote_at_the_same_time_lose_double_and_overstep_nothing(
    database: Database, settings: Settings, clock: Any
):
    now = clock.now()
    base = add_checkpoint(database, settings, seeds=range(16))  # 120 pairs, two places each
    with database.writer() as session:
        people = [
            Principal(accounts.ensure_user(session, f"rater {n}", Role.RATER, now).id, f"rater {n}", Role.RATER)
            for n in range(RATERS)
        ]
        campaign_id = campaigns.create_campaign(
            session, name="c", question="?", checkpoint_ids=[base], overlap=2, budget=BUDGET, open=True,
            creator=people[0], now=now,
        ).id  # fmt: skip
    start = Barrier(RATERS)
    # SQLite's lock is not fair and of eight who wait one may starve, so the web process queues its writers. Two at a
    # time still meet at the lock.
    writers = Semaphore(2 if database.is_sqlite else RATERS)

    def rate(number: int) -> list[tuple[UUID, Choice]]:
        rng, given = Random(number), []
        start.wait(timeout=30)
        while len(given) < VOTES:
            with writers, database.writer() as session:
                leases = leasing.lease_comparisons(
                    session, campaign_id, rater=people[number], n=rng.randrange(1, 4), now=now, lease_seconds=900,
                    rng=rng,
                )  # fmt: skip
            if not leases:
                break
            for lease in leases:
                choice = rng.choice([Choice.LEFT, Choice.RIGHT])
                for _ in range(rng.randrange(1, 3)):  # a client that repeats itself
                    with writers, database.writer() as session:
                        labeling.record_preference(
                            session, lease.id, rater=people[number], choice=choice, now=now, undo_seconds=60
                        )
                given.append((lease.id, choice))
        return given

    with ThreadPoolExecutor(RATERS) as pool:
        logs = [vote for log in pool.map(rate, range(RATERS)) for vote in log]

    with database.reader() as session:
        stored = {row.comparison_id: row.choice for row in session.scalars(select(Preference))}
        leases = list(session.scalars(select(Comparison)))
        pairs = list(session.scalars(select(Pair)))
        campaign = session.get_one(Campaign, campaign_id)
    assert len(logs) == len(stored)
    assert dict(logs) == stored
    assert campaign.n_leased == len(leases) == BUDGET
    places = Counter(row.pair_id for row in leases if row.repetition == 0)
    assert {pair.id: pair.n_leased for pair in pairs} == {pair.id: places[pair.id] for pair in pairs}
    assert max(places.values()) == 2
    assert max(Counter((row.pair_id, row.rater_id, row.repetition) for row in leases).values()) == 1


@pytest.mark.parametrize("choices", [(Choice.LEFT, Choice.LEFT), (Choice.LEFT, Choice.RIGHT)])
def test_two_votes_on_one_lease_at_the_same_time_leave_one(
    database: Database, settings: Settings, clock: Any, choices: tuple[Choice, Choice]
):
    now = clock.now()
    base = add_checkpoint(database, settings, seeds=range(2))
    with database.writer() as session:
        ada = Principal(accounts.ensure_user(session, "ada", Role.OPERATOR, now).id, "ada", Role.OPERATOR)
        campaign_id = campaigns.create_campaign(
            session, name="c", question="?", checkpoint_ids=[base], creator=ada, now=now
        ).id
        (lease,) = leasing.lease_comparisons(
            session, campaign_id, rater=ada, n=1, now=now, lease_seconds=900, rng=Random(0)
        )
    start = Barrier(2)

    def vote(choice: Choice) -> None:
        start.wait(timeout=30)
        with database.writer() as session:
            labeling.record_preference(session, lease.id, rater=ada, choice=choice, now=now, undo_seconds=60)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(vote, choices))
    with database.reader() as session:
        (row,) = session.scalars(select(Preference))
    assert row.choice in choices


def test_operators_who_mark_the_same_gold_pair_at_once_agree_on_the_last_word(
    database: Database, settings: Settings, clock: Any
):
    now, n = clock.now(), 4
    base = add_checkpoint(database, settings, seeds=range(4))
    with database.writer() as session:
        who = Principal(accounts.ensure_user(session, "olga", Role.OPERATOR, now).id, "olga", Role.OPERATOR)
        campaign_id = campaigns.create_campaign(
            session, name="c", question="?", checkpoint_ids=[base], open=True, creator=who, now=now
        ).id
        a, b = session.scalars(select(Sample.id).limit(2))
    start = Barrier(n)

    def mark(number: int) -> UUID:
        better, worse = (a, b) if number % 2 else (b, a)
        start.wait(timeout=30)
        with database.writer() as session:
            return gold.mark_gold(session, who, campaign_id, better=better, worse=worse, now=now).better_sample_id

    with ThreadPoolExecutor(n) as pool:
        said = list(pool.map(mark, range(n)))
    assert said == [b, a, b, a]
    with database.reader() as session:
        (view,) = gold.list_gold(session, campaign_id)
    assert {view.better_sample_id, view.worse_sample_id} == {a, b}
