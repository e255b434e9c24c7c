"""Forged votes and unblinding, with real requests (threats 14 and 15); more of both in test_comparisons_api."""

import time
from collections import Counter
from collections.abc import Callable
from statistics import median
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from scipy.stats import binomtest
from sqlalchemy import select

from app.config import Settings
from app.db.models import Comparison, Preference, Sample
from app.db.session import Database
from app.domain import pairing
from app.domain.enums import Role
from tests.labeling_data import add_checkpoint

Headers = dict[str, str]


@pytest.fixture
def database_url(sqlite_database_url: str) -> str:
    """One database is enough here: test_leasing.py runs the same service on both."""
    return sqlite_database_url


@pytest.fixture
def operator(sign_in: Callable[..., Headers]) -> Headers:
    return sign_in(Role.OPERATOR, "olga")


@pytest.fixture
def tournament(client: TestClient, operator: Headers, database: Database, settings: Settings) -> dict[str, str]:
    """Ids of a campaign between a base and a finetuned checkpoint, and of the two."""
    base, tuned = (add_checkpoint(database, settings, name, seeds=range(60)) for name in ("base", "tuned"))
    body = {
        "name": "blind", "question": "Which?", "open": True, "strategy": "tournament",
        "checkpoint_ids": [str(base), str(tuned)],
    }  # fmt: skip
    campaign = client.post("/api/v1/campaigns", json=body, headers=operator).json()["id"]
    return {"campaign": campaign, "base": str(base), "tuned": str(tuned)}


def lease(client: TestClient, campaign: str, who: Headers, n: int = 20) -> list[dict[str, Any]]:
    return list(client.post(f"/api/v1/campaigns/{campaign}/comparisons", params={"n": n}, headers=who).json())


@pytest.mark.parametrize(
    "body",
    [
        {"choice": "left", "winner": "5f0c6c1e-0000-4000-8000-000000000000"},
        {"choice": "5f0c6c1e-0000-4000-8000-000000000000"},
        {"choice": "left", "rater_id": "5f0c6c1e-0000-4000-8000-000000000000"},
        {"choice": "left", "created_at": "2020-01-01T00:00:00Z"},
        {"choice": ["left", "right"]},
    ],
)
def test_a_vote_cannot_name_a_winner_a_rater_or_a_time_of_its_own(
    client: TestClient, tournament: dict[str, str], sign_in: Callable[..., Headers], database: Database, body: Any
):
    who = sign_in(Role.RATER, "rita")
    (pair,) = lease(client, tournament["campaign"], who, 1)
    assert client.put(f"/api/v1/comparisons/{pair['id']}/preference", json=body, headers=who).status_code == 422
    with database.reader() as session:
        assert session.scalars(select(Preference)).all() == []


def test_a_replayed_vote_counts_once_and_cannot_be_aimed_at_another_rater(
    client: TestClient, tournament: dict[str, str], sign_in: Callable[..., Headers], database: Database
):
    rita, rob = sign_in(Role.RATER, "rita"), sign_in(Role.RATER, "rob")
    (pair,) = lease(client, tournament["campaign"], rita, 1)
    path = f"/api/v1/comparisons/{pair['id']}/preference"
    answers = [client.put(path, json={"choice": "left"}, headers=who).status_code for who in (rita, rita, rob, rita)]
    assert answers == [204, 204, 403, 204]
    assert client.delete(path, headers=rob).status_code == 403
    with database.reader() as session:
        assert len(session.scalars(select(Preference)).all()) == 1


def test_a_retracted_rater_gets_no_pair_and_their_vote_on_an_open_one_does_not_count(
    client: TestClient, tournament: dict[str, str], operator: Headers, sign_in: Callable[..., Headers],
    database: Database,
):  # fmt: skip
    rita = sign_in(Role.RATER, "rita")
    (pair,) = lease(client, tournament["campaign"], rita, 1)
    with database.reader() as session:
        rita_id = session.scalars(select(Comparison.rater_id)).one()
    path = f"/api/v1/campaigns/{tournament['campaign']}"
    assert client.put(f"{path}/raters/{rita_id}/retraction", json={}, headers=operator).status_code == 200
    client.put(f"/api/v1/comparisons/{pair['id']}/preference", json={"choice": "left"}, headers=rita)
    assert client.post(f"{path}/comparisons", headers=rita).status_code == 409
    stats = client.get(f"{path}/stats", headers=operator).json()
    assert stats["win_rates"] == []
    assert stats["votes"] == stats["retracted_votes"]


def test_both_checkpoints_images_come_alike_on_either_side_and_equally_fast(
    client: TestClient, tournament: dict[str, str], sign_in: Callable[..., Headers], database: Database
):
    who = sign_in(Role.RATER, "rita")
    with database.reader() as session:
        checkpoint_of = {str(row.id): str(row.checkpoint_id) for row in session.scalars(select(Sample))}
    headers: dict[str, set[tuple[Any, ...]]] = {tournament["base"]: set(), tournament["tuned"]: set()}
    seconds: dict[str, list[float]] = {id: [] for id in headers}
    base_is_left = 0
    pairs = []
    for _ in range(3):
        pairs += lease(client, tournament["campaign"], who)
        for pair in pairs[-20:]:
            with database.reader() as session:
                row = session.get_one(Comparison, UUID(pair["id"]))
            sides = {side: checkpoint_of[str(getattr(row, f"{side}_sample_id"))] for side in ("left", "right")}
            base_is_left += sides["left"] == tournament["base"]
            for side, checkpoint in sides.items():
                started = time.perf_counter()
                answer = client.get(pair[side]["image"], headers=who)
                seconds[checkpoint].append(time.perf_counter() - started)
                told = {
                    name: value for name, value in answer.headers.items()
                    if name not in ("content-length", "date", "x-request-id")
                }  # fmt: skip
                headers[checkpoint].add(tuple(sorted(told.items())))
                for id in (tournament["base"], tournament["tuned"], str(row.left_sample_id), str(row.right_sample_id)):
                    assert id not in str(answer.headers) + str(pair)
            client.put(f"/api/v1/comparisons/{pair['id']}/preference", json={"choice": "left"}, headers=who)
    assert headers[tournament["base"]] == headers[tournament["tuned"]]
    assert binomtest(base_is_left, len(pairs)).pvalue > 1e-6  # by chance once in a million runs
    slower, faster = sorted((median(times) for times in seconds.values()), reverse=True)
    assert slower < 2 * faster  # the same work for both: no cache that one of them is in


def test_repeats_and_gold_have_no_place_of_their_own_in_a_batch(
    client: TestClient, tournament: dict[str, str], operator: Headers, sign_in: Callable[..., Headers],
    database: Database, monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setattr(pairing, "GOLD_SHARE", 0.3)
    with database.reader() as session:
        rows = session.scalars(select(Sample)).all()
    by_seed: dict[int, dict[str, str]] = {}
    for row in rows:
        by_seed.setdefault(row.seed, {})[str(row.checkpoint_id)] = str(row.id)
    for seed in range(20):
        body = {
            "better_sample_id": by_seed[seed][tournament["tuned"]],
            "worse_sample_id": by_seed[seed][tournament["base"]],
        }
        path = f"/api/v1/campaigns/{tournament['campaign']}/gold"
        assert client.post(path, json=body, headers=operator).status_code == 201
    places: Counter[int] = Counter()
    for number in range(8):
        who = sign_in(Role.RATER, f"rater {number}")
        batch = lease(client, tournament["campaign"], who, 10)
        with database.reader() as session:
            gold = [session.get_one(Comparison, UUID(pair["id"])).is_gold for pair in batch]
        places.update(place for place, is_gold in enumerate(gold) if is_gold)
        assert [pair["id"] for pair in batch] == sorted(pair["id"] for pair in batch)
    first_half = sum(n for place, n in places.items() if place < 5)
    assert binomtest(first_half, places.total()).pvalue > 1e-6  # by chance once in a million runs


@pytest.mark.parametrize(
    "path",
    [
        "samples", "checkpoints", "campaigns/{campaign}/stats", "campaigns/{campaign}/export",
        "campaigns/{campaign}/gold", "checkpoints/{tuned}/lineage", "reward-models",
    ],
)  # fmt: skip
def test_what_would_unblind_is_closed_to_raters(
    client: TestClient, tournament: dict[str, str], sign_in: Callable[..., Headers], path: str
):
    answer = client.get(f"/api/v1/{path.format(**tournament)}", headers=sign_in(Role.RATER, "rita"))
    assert answer.status_code == 403
