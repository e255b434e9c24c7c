"""Rating over REST: leases are private, blind and safe to repeat; forged votes are refused (threats 14 and 15)."""

import io
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from sqlalchemy import select

from app.adapters.blobs import BlobStore
from app.config import Settings
from app.db.models import Comparison, Preference, Sample
from app.db.session import Database
from app.domain.enums import Role
from tests.labeling_data import add_checkpoint

UNKNOWN = UUID(int=7)  # an id that nothing has

Headers = dict[str, str]


@pytest.fixture
def database_url(sqlite_database_url: str) -> str:
    """One database is enough here: test_leasing.py runs the same service on both."""
    return sqlite_database_url


@pytest.fixture
def operator(sign_in: Callable[..., Headers]) -> Headers:
    return sign_in(Role.OPERATOR, "olga")


@pytest.fixture
def rater(sign_in: Callable[..., Headers]) -> Headers:
    return sign_in(Role.RATER, "rita")


@pytest.fixture
def campaign(client: TestClient, operator: Headers, database: Database, settings: Settings) -> str:
    body = {
        "name": "n",
        "question": "Which?",
        "open": True,
        "checkpoint_ids": [str(add_checkpoint(database, settings))],
    }
    return str(client.post("/api/v1/campaigns", json=body, headers=operator).json()["id"])


def lease(client: TestClient, campaign: str, who: Headers, **params: Any) -> list[dict[str, Any]]:
    answer = client.post(f"/api/v1/campaigns/{campaign}/comparisons", params=params, headers=who)
    assert answer.status_code == 200, answer.text
    return list(answer.json())


def vote(client: TestClient, pair: dict[str, Any], who: Headers, **body: Any) -> int:
    return client.put(f"/api/v1/comparisons/{pair['id']}/preference", json=body, headers=who).status_code


def stored(database: Database) -> list[Preference]:
    with database.reader() as session:
        return list(session.scalars(select(Preference)))


def test_a_lease_is_a_question_two_image_links_and_an_expiry(client: TestClient, campaign: str, rater: Headers):
    (pair,) = lease(client, campaign, rater)
    link = f"/api/v1/comparisons/{pair['id']}"
    assert pair == {
        "id": pair["id"],
        "question": "Which?",
        "left": {"image": f"{link}/left"},
        "right": {"image": f"{link}/right"},
        "expires_at": "2026-01-01T00:15:00Z",
    }


def test_images_hold_the_pixels_of_their_side_and_nothing_else(
    client: TestClient, campaign: str, rater: Headers, database: Database, settings: Settings
):
    (pair,) = lease(client, campaign, rater)
    with database.reader() as session:
        row = session.get_one(Comparison, UUID(pair["id"]))
        samples = {
            "left": session.get_one(Sample, row.left_sample_id),
            "right": session.get_one(Sample, row.right_sample_id),
        }
    for side, sample in samples.items():
        answer = client.get(pair[side]["image"], headers=rater)
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["cache-control"] == "no-store"
        assert not {"etag", "last-modified", "content-disposition"} & set(answer.headers)
        shown = Image.open(io.BytesIO(answer.content))
        original = Image.open(io.BytesIO(BlobStore(settings.blob_root).get(sample.sha256)))
        assert original.info == {"checkpoint": f"base/{sample.seed}"}
        assert shown.info == {}
        assert shown.tobytes() == original.tobytes()
        for secret in (str(sample.id), str(sample.checkpoint_id), sample.sha256):
            assert secret not in str(answer.headers) + str(pair)


def test_only_its_rater_and_operators_see_the_images_of_a_lease(
    client: TestClient, campaign: str, rater: Headers, operator: Headers, sign_in: Callable[..., Headers]
):
    (pair,) = lease(client, campaign, rater)
    assert client.get(pair["left"]["image"], headers=sign_in(Role.RATER)).status_code == 403
    assert client.get(pair["left"]["image"]).status_code == 401
    assert client.get(pair["left"]["image"], headers=operator).status_code == 200
    assert client.get(f"/api/v1/comparisons/{uuid4()}/left", headers=rater).status_code == 404
    assert client.get(f"/api/v1/comparisons/{pair['id']}/middle", headers=rater).status_code == 422


def test_the_same_vote_again_is_no_change_and_another_replaces_it(
    client: TestClient, campaign: str, rater: Headers, database: Database
):
    (pair,) = lease(client, campaign, rater)
    assert vote(client, pair, rater, choice="left", response_ms=650) == 204
    assert vote(client, pair, rater, choice="left", response_ms=650) == 204
    assert vote(client, pair, rater, choice="tie", response_ms=99) == 204
    (row,) = stored(database)
    assert (row.choice.value, row.response_ms) == ("tie", 650)


@pytest.mark.parametrize("choice", ["left", "right", "tie", "both_bad", "skip"])
def test_every_choice_is_stored_as_it_is(
    client: TestClient, campaign: str, rater: Headers, database: Database, choice: str
):
    (pair,) = lease(client, campaign, rater)
    assert vote(client, pair, rater, choice=choice) == 204
    assert [row.choice.value for row in stored(database)] == [choice]


@pytest.mark.parametrize(
    "body",
    [{"choice": "middle"}, {}, {"choice": "left", "winner": str(UNKNOWN)}, {"choice": "left", "response_ms": -1}],
)
def test_a_vote_of_the_wrong_shape_is_refused(
    client: TestClient, campaign: str, rater: Headers, database: Database, body: dict[str, Any]
):
    (pair,) = lease(client, campaign, rater)
    assert vote(client, pair, rater, **body) == 422
    assert stored(database) == []


def test_nobody_votes_on_anothers_lease_not_even_an_operator(
    client: TestClient, campaign: str, rater: Headers, operator: Headers, database: Database
):
    (pair,) = lease(client, campaign, rater)
    assert vote(client, pair, operator, choice="left") == 403
    assert client.delete(f"/api/v1/comparisons/{pair['id']}/preference", headers=operator).status_code == 403
    assert vote(client, {"id": uuid4()}, rater, choice="left") == 404
    assert stored(database) == []


def test_an_expired_lease_takes_no_vote(
    client: TestClient, campaign: str, rater: Headers, database: Database, clock: Any
):
    (pair,) = lease(client, campaign, rater)
    clock.advance(seconds=900)
    assert vote(client, pair, rater, choice="left") == 410
    assert stored(database) == []
    assert [row["id"] for row in lease(client, campaign, rater)] == [pair["id"]]
    assert vote(client, pair, rater, choice="left") == 204


def test_undo_takes_the_vote_back_and_may_be_repeated(
    client: TestClient, campaign: str, rater: Headers, database: Database, clock: Any
):
    (pair,) = lease(client, campaign, rater)
    vote(client, pair, rater, choice="left")
    preference = f"/api/v1/comparisons/{pair['id']}/preference"
    assert client.delete(preference, headers=rater).status_code == 204
    assert client.delete(preference, headers=rater).status_code == 204
    assert stored(database) == []
    assert vote(client, pair, rater, choice="right") == 204
    clock.advance(seconds=3601)
    assert client.delete(preference, headers=rater).status_code == 409


def test_pairs_on_screen_are_not_leased_again(client: TestClient, campaign: str, rater: Headers):
    first = lease(client, campaign, rater, n=3)
    held = [pair["id"] for pair in first]
    more = lease(client, campaign, rater, n=3, holding=held)
    assert not {pair["id"] for pair in more} & set(held)


@pytest.mark.parametrize("n", [0, 21, "many"])
def test_the_number_of_pairs_is_bounded(client: TestClient, campaign: str, rater: Headers, n: Any):
    answer = client.post(f"/api/v1/campaigns/{campaign}/comparisons", params={"n": n}, headers=rater)
    assert answer.status_code == 422


def test_there_is_no_content_when_no_pair_is_left(
    client: TestClient, operator: Headers, rater: Headers, database: Database, settings: Settings
):
    checkpoint = str(add_checkpoint(database, settings, seeds=range(2)))
    body = {"name": "n", "question": "?", "open": True, "checkpoint_ids": [checkpoint]}
    campaign = client.post("/api/v1/campaigns", json=body, headers=operator).json()["id"]
    (pair,) = lease(client, campaign, rater, n=20)
    vote(client, pair, rater, choice="left")
    answer = client.post(f"/api/v1/campaigns/{campaign}/comparisons", headers=rater)
    assert (answer.status_code, answer.content) == (204, b"")


def test_nothing_a_rater_can_read_tells_where_a_sample_comes_from(client: TestClient, campaign: str, rater: Headers):
    for path in ("checkpoints", "samples", "jobs", "reward-models", f"campaigns/{campaign}/stats"):
        assert client.get(f"/api/v1/{path}", headers=rater).status_code == 403
