"""Campaigns over REST: opening, seeing, members, closing, statistics."""

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from app.config import Settings
from app.db.models import Comparison, Sample, User
from app.db.session import Database
from app.domain.enums import Role
from tests.labeling_data import add_checkpoint

UNKNOWN = UUID(int=7)  # an id that nothing has

Headers = dict[str, str]
URL = "/api/v1/campaigns"


@pytest.fixture
def operator(sign_in: Callable[..., Headers]) -> Headers:
    return sign_in(Role.OPERATOR, "olga")


@pytest.fixture
def base(database: Database, settings: Settings) -> str:
    return str(add_checkpoint(database, settings))


def open_campaign(client: TestClient, operator: Headers, checkpoint_ids: list[str], **fields: Any) -> dict[str, Any]:
    body = {"name": "First taste", "question": "Which?", "checkpoint_ids": checkpoint_ids, **fields}
    answer = client.post(URL, json=body, headers=operator)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def rate(client: TestClient, rater: Headers, campaign_id: str, choose: Callable[[dict[str, Any]], str], n: int) -> int:
    """Vote on up to `n` pairs; `choose` gets the comparison."""
    given = 0
    while given < n:
        answer = client.post(f"{URL}/{campaign_id}/comparisons", params={"n": min(20, n - given)}, headers=rater)
        if answer.status_code == 204:
            break
        for pair in answer.json():
            vote = {"choice": choose(pair), "response_ms": 800}
            assert (
                client.put(f"/api/v1/comparisons/{pair['id']}/preference", json=vote, headers=rater).status_code == 204
            )
            given += 1
    return given


def test_a_campaign_has_the_documented_defaults(client: TestClient, operator: Headers, base: str):
    made = open_campaign(client, operator, [base])
    assert made.items() >= {"overlap": 1, "strategy": "uniform", "budget": None, "open": False, "votes": 0}.items()
    assert (made["status"], made["guidelines"]) == ("active", "")
    assert made["checkpoint_ids"] == [base]
    assert client.get(f"{URL}/{made['id']}", headers=operator).json() == made


def test_a_raters_view_leaves_out_what_would_unblind(
    client: TestClient, operator: Headers, base: str, sign_in: Callable[..., Headers]
):
    made = open_campaign(client, operator, [base], open=True)
    rater = sign_in(Role.RATER)
    for seen in (
        client.get(f"{URL}/{made['id']}", headers=rater).json(),
        client.get(URL, headers=rater).json()["items"][0],
    ):
        assert seen["question"] == "Which?"
        assert not {"checkpoint_ids", "strategy", "budget", "created_by"} & set(seen)
        assert base not in str(seen)


def test_raters_see_only_campaigns_they_belong_to(
    client: TestClient, operator: Headers, base: str, sign_in: Callable[..., Headers]
):
    closed_shop, everyones = open_campaign(client, operator, [base]), open_campaign(client, operator, [base], open=True)
    rater = sign_in(Role.RATER, "rita")
    assert [row["id"] for row in client.get(URL, headers=rater).json()["items"]] == [everyones["id"]]
    assert client.get(f"{URL}/{closed_shop['id']}", headers=rater).status_code == 404
    assert client.post(f"{URL}/{closed_shop['id']}/comparisons", headers=rater).status_code == 404
    added = client.post(f"{URL}/{closed_shop['id']}/raters", json={"token_names": ["rita"]}, headers=operator)
    assert [row["name"] for row in added.json()["items"]] == ["rita"]
    assert client.post(f"{URL}/{closed_shop['id']}/comparisons", headers=rater).status_code == 200


def test_raters_are_added_by_id_or_token_name_and_again_without_harm(
    client: TestClient, operator: Headers, base: str, sign_in: Callable[..., Headers], database: Database
):
    campaign = open_campaign(client, operator, [base])
    sign_in(Role.RATER, "rita")  # her token is named "test", as everybody's is here
    with database.reader() as session:
        rita = str(session.scalars(select(User.id).where(User.name == "rita")).one())
    for body in ({"user_ids": [rita]}, {"user_ids": [rita]}, {"token_names": ["test"]}):
        answer = client.post(f"{URL}/{campaign['id']}/raters", json=body, headers=operator)
        assert answer.status_code == 200
    assert [row["name"] for row in answer.json()["items"]] == ["olga", "rita"]


@pytest.mark.parametrize("body", [{}, {"user_ids": [str(UNKNOWN)]}, {"token_names": ["nobody"]}, {"user_ids": ["x"]}])
def test_unknown_raters_are_refused(client: TestClient, operator: Headers, base: str, body: dict[str, Any]):
    campaign = open_campaign(client, operator, [base])
    answer = client.post(f"{URL}/{campaign['id']}/raters", json=body, headers=operator)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"checkpoint_ids": []}, "checkpoint_ids"),
        ({"checkpoint_ids": [str(UNKNOWN)]}, "checkpoint_ids"),
        ({"overlap": 0}, "overlap"),
        ({"budget": 0}, "budget"),
        ({"strategy": "guess"}, "strategy"),
        ({"question": ""}, "question"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_field_is_named(client: TestClient, operator: Headers, base: str, fields: dict[str, Any], field: str):
    body = {"name": "n", "question": "?", "checkpoint_ids": [base]} | fields
    answer = client.post(URL, json=body, headers=operator)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field


def test_too_few_samples_are_refused_with_what_to_do(
    client: TestClient, operator: Headers, base: str, database: Database, settings: Settings
):
    single = str(add_checkpoint(database, settings, "single", [99]))
    body = {"name": "n", "question": "?", "checkpoint_ids": [single]}
    assert "draw some first" in client.post(URL, json=body, headers=operator).json()["detail"]
    tournament = body | {"strategy": "tournament"}
    assert "two checkpoints" in client.post(URL, json=tournament, headers=operator).json()["detail"]
    tournament["checkpoint_ids"] = [base, single]
    assert "share no seeds" in client.post(URL, json=tournament, headers=operator).json()["detail"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", ""), ("POST", "/{id}/raters"), ("POST", "/{id}/close"), ("GET", "/{id}/stats"), ("GET", "/{id}/export"),
     ("GET", "/{id}/raters"), ("PATCH", "/{id}"), ("POST", "/{id}/reopen")],
)  # fmt: skip
def test_raters_may_not_do_what_operators_do(
    client: TestClient, operator: Headers, base: str, sign_in: Callable[..., Headers], method: str, path: str
):
    campaign = open_campaign(client, operator, [base], open=True)
    answer = client.request(method, URL + path.format(id=campaign["id"]), json={}, headers=sign_in(Role.RATER))
    assert answer.status_code == 403


@pytest.mark.parametrize("path", ["", "/stats", "/export", "/raters"])
def test_an_unknown_campaign_is_not_found(client: TestClient, operator: Headers, path: str):
    assert client.get(f"{URL}/{uuid4()}{path}", headers=operator).status_code == 404


def test_a_closed_campaign_takes_no_votes_and_gives_no_pairs(client: TestClient, operator: Headers, base: str):
    campaign = open_campaign(client, operator, [base])
    voted, waiting = client.post(f"{URL}/{campaign['id']}/comparisons?n=2", headers=operator).json()
    preference = f"/api/v1/comparisons/{voted['id']}/preference"
    client.put(preference, json={"choice": "left"}, headers=operator)
    assert client.post(f"{URL}/{campaign['id']}/close", headers=operator).json()["status"] == "closed"
    assert client.post(f"{URL}/{campaign['id']}/close", headers=operator).status_code == 200
    assert client.put(preference, json={"choice": "left"}, headers=operator).status_code == 204
    assert client.put(preference, json={"choice": "right"}, headers=operator).status_code == 409
    assert client.delete(preference, headers=operator).status_code == 409
    late = client.put(f"/api/v1/comparisons/{waiting['id']}/preference", json={"choice": "left"}, headers=operator)
    assert late.status_code == 409
    assert client.post(f"{URL}/{campaign['id']}/comparisons", headers=operator).status_code == 409


def test_a_budget_that_is_used_up_can_be_raised_but_not_below_what_was_given(
    client: TestClient, operator: Headers, base: str
):
    campaign = open_campaign(client, operator, [base], budget=2)
    url = f"{URL}/{campaign['id']}"
    assert rate(client, operator, campaign["id"], lambda _: "left", 3) == 2
    too_few = client.patch(url, json={"budget": 1, "name": "Too few"}, headers=operator)
    assert (too_few.status_code, "2 votes" in too_few.json()["detail"]) == (409, True)
    raised = client.patch(url, json={"budget": 4, "guidelines": "Look at the *eyes*."}, headers=operator).json()
    assert raised == {**campaign, "budget": 4, "guidelines": "Look at the *eyes*.", "votes": 2, "n_leased": 2}
    assert rate(client, operator, campaign["id"], lambda _: "left", 3) == 2
    assert client.patch(url, json={"budget": None}, headers=operator).json()["budget"] is None
    assert rate(client, operator, campaign["id"], lambda _: "left", 3) == 3


def test_what_the_votes_answer_cannot_be_changed(client: TestClient, operator: Headers, base: str):
    url = f"{URL}/{open_campaign(client, operator, [base])['id']}"
    for change in ({"question": "Which is worse?"}, {"checkpoint_ids": []}, {"strategy": "uniform"}, {"budget": 0}):
        answer = client.patch(url, json=change, headers=operator)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, next(iter(change)))


def test_a_campaign_closed_by_mistake_takes_votes_again(client: TestClient, operator: Headers, base: str):
    campaign = open_campaign(client, operator, [base])
    waiting = client.post(f"{URL}/{campaign['id']}/comparisons", headers=operator).json()[0]
    client.post(f"{URL}/{campaign['id']}/close", headers=operator)
    for _ in range(2):
        again = client.post(f"{URL}/{campaign['id']}/reopen", headers=operator)
        assert (again.status_code, again.json()["status"]) == (200, "active")
    preference = f"/api/v1/comparisons/{waiting['id']}/preference"
    assert client.put(preference, json={"choice": "left"}, headers=operator).status_code == 204


def test_refused_settings_of_a_campaign_come_back_as_they_were_typed(client: TestClient, operator: Headers, base: str):
    campaign = open_campaign(client, operator, [base], budget=3)
    rate(client, operator, campaign["id"], lambda _: "left", 2)
    typed = {"name": "Second taste", "budget": "1", "guidelines": "Long <b>thoughts</b>", "open": "on"}
    page = client.post(f"/campaigns/{campaign['id']}/settings", data=typed, headers=operator)
    assert page.status_code == 422
    assert "2 votes and pairs" in page.text
    assert 'value="Second taste"' in page.text
    assert "Long &lt;b&gt;thoughts&lt;/b&gt;" in page.text
    client.post(f"/campaigns/{campaign['id']}/settings", data=typed | {"budget": "5"}, headers=operator)
    changed = client.get(f"{URL}/{campaign['id']}", headers=operator).json()
    assert changed.items() >= {"name": "Second taste", "budget": 5, "open": True}.items()


def test_campaigns_are_listed_newest_first_page_by_page(client: TestClient, operator: Headers, base: str, clock: Any):
    made = []
    for number in range(5):
        made.append(open_campaign(client, operator, [base], name=f"c{number}")["id"])
        clock.advance(seconds=1)
    seen, cursor = [], None
    while True:
        page = client.get(URL, params={"limit": 2, **({"cursor": cursor} if cursor else {})}, headers=operator).json()
        seen += [row["id"] for row in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == made[::-1]


def test_statistics_of_a_campaign_without_votes_are_empty_and_finite(client: TestClient, operator: Headers, base: str):
    campaign = open_campaign(client, operator, [base])
    stats = client.get(f"{URL}/{campaign['id']}/stats", headers=operator).json()
    assert stats["votes"] == 0
    assert stats["agreement"]["value"] is None
    assert stats["win_rates"] == stats["raters"] == []
    assert stats["ratings"] is None


def test_statistics_of_a_tournament_name_the_better_checkpoint(
    client: TestClient,
    operator: Headers,
    base: str,
    database: Database,
    settings: Settings,
    sign_in: Callable[..., Headers],
):
    tuned = str(add_checkpoint(database, settings, "tuned"))
    campaign = open_campaign(client, operator, [base, tuned], strategy="tournament", overlap=3, open=True)

    def prefers_tuned(pair: dict[str, Any]) -> str:
        with database.reader() as session:
            lease = session.get_one(Comparison, UUID(pair["id"]))
            return "left" if str(session.get_one(Sample, lease.left_sample_id).checkpoint_id) == tuned else "right"

    for name in ("ada", "bob"):
        assert rate(client, sign_in(Role.RATER, name), campaign["id"], prefers_tuned, 8) == 8
    cy = sign_in(Role.RATER, "cy")
    assert rate(client, cy, campaign["id"], lambda _pair: "tie", 2) == 2
    assert rate(client, cy, campaign["id"], lambda _pair: "skip", 1) == 1

    stats = client.get(f"{URL}/{campaign['id']}/stats", headers=operator).json()
    assert stats["votes"] == 19
    assert stats["choices"]["tie"] == 2
    assert stats["choices"]["skip"] == 1
    (row,) = stats["win_rates"]
    assert (row["a"], row["b"], row["wins"], row["losses"], row["ties"], row["n"]) == (tuned, base, 16, 0, 2, 18)
    assert row["win_rate"] == pytest.approx(17 / 18)
    assert row["interval"][0] > 0.5
    assert row["verdict"] == "better"
    ratings = {rating["checkpoint_id"]: rating["rating"] for rating in stats["ratings"]}
    assert ratings[tuned] == pytest.approx(-ratings[base])
    assert ratings[tuned] > 0
    health = {rater["name"]: rater for rater in stats["raters"]}
    assert health["ada"]["n"] == 8
    assert health["ada"]["median_ms"] == 800
    assert health["cy"]["agreement"]["value"] == 0
    assert stats["agreement"]["value"] is not None

    page = client.get(f"/campaigns/{campaign['id']}", headers=operator | {"accept": "text/html"})
    assert page.status_code == 200
    assert "<strong>better</strong>" in page.text


def test_a_campaign_is_opened_once_for_one_idempotency_key(client: TestClient, operator: Headers, base: str):
    body = {"name": "n", "question": "?", "checkpoint_ids": [base]}
    once = operator | {"Idempotency-Key": "k1"}
    assert client.post(URL, json=body, headers=once).json() == client.post(URL, json=body, headers=once).json()
    assert len(client.get(URL, headers=operator).json()["items"]) == 1
