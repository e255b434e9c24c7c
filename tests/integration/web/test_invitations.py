"""Invitations: who has a link comes into one campaign under a name of their own, and reaches nothing else."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, text

from app.config import Settings
from app.db.models import AuditEntry, CampaignRater, Comparison, Guest, Invitation, Preference, User
from app.db.session import Database
from app.domain.enums import Choice, Role
from app.domain.errors import GoneError
from app.main import create_app
from app.services import accounts, invitations
from app.web.deps import SESSION_COOKIE
from tests.labeling_data import add_checkpoint

Headers = dict[str, str]
HERE = {"Origin": "http://testserver", "Accept": "text/html"}
SOME_ID = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{getattr(request, 'param', 'sqlite')}_database_url")
    return url


ON_BOTH = pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True
)


@pytest.fixture
def operator(sign_in: Callable[..., Headers]) -> Headers:
    return sign_in(Role.OPERATOR, "olga")


@pytest.fixture
def new_campaign(client: TestClient, operator: Headers, database: Database, settings: Settings) -> Callable[..., str]:
    checkpoint = str(add_checkpoint(database, settings))

    def _new(**fields: Any) -> str:
        body = {"name": "n", "question": "Which is <b>warmer</b>?", "checkpoint_ids": [checkpoint], **fields}
        return str(client.post("/api/v1/campaigns", json=body, headers=operator).json()["id"])

    return _new


@pytest.fixture
def campaign(new_campaign: Callable[..., str]) -> str:
    return new_campaign()


def invite(client: TestClient, campaign: str, operator: Headers, **body: Any) -> dict[str, Any]:
    answer = client.post(f"/api/v1/campaigns/{campaign}/invitations", json=body, headers=operator)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def accept(client: TestClient, code: str, name: str = "Mira", **headers: str) -> Any:
    """Open a link in a browser without cookies and give a name. The cookie is in the client afterwards."""
    client.cookies.clear()
    return client.post(f"/i/{code}", data={"name": name}, headers=HERE | headers, follow_redirects=False)


def listed(client: TestClient, campaign: str, operator: Headers) -> list[dict[str, Any]]:
    client.cookies.clear()
    items: list[dict[str, Any]] = client.get(f"/api/v1/campaigns/{campaign}/invitations", headers=operator).json()[
        "items"
    ]
    return items


@ON_BOTH
def test_a_link_leads_to_the_rating_page_and_a_vote_that_counts(
    client: TestClient, campaign: str, operator: Headers, database: Database
) -> None:
    made = invite(client, campaign, operator, label="class", max_uses=3)
    assert made["url"] == f"http://testserver/i/{made['code']}"
    door = client.get(f"/i/{made['code']}", headers=HERE)
    assert door.status_code == 200
    assert "Which is &lt;b&gt;warmer&lt;/b&gt;?" in door.text
    answer = accept(client, made["code"], "  Mira \n Holm ")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/rate/{campaign}")
    assert "HttpOnly" in answer.headers["set-cookie"]
    page = client.get(f"/rate/{campaign}", headers=HERE)
    assert page.status_code == 200
    pair = re.search(r'name="comparison_id" value="([^"]+)"', page.text)
    assert pair is not None
    vote = client.put(f"/api/v1/comparisons/{pair[1]}/preference", json={"choice": "left"}, headers=HERE)
    assert vote.status_code == 204
    with database.reader() as session:
        rater = session.scalars(select(User).where(User.name == "Mira Holm")).one()
        preference = session.scalars(select(Preference)).one()
        assert (preference.rater_id, preference.choice) == (rater.id, Choice.LEFT)
        assert (rater.role, rater.password_hash) == (Role.RATER, None)
        assert session.get(CampaignRater, (UUID(campaign), rater.id)) is not None
        assert session.get_one(Guest, rater.id).invitation_id == UUID(made["id"])
    (row,) = listed(client, campaign, operator)
    assert (row["label"], row["n_uses"], row["max_uses"], row["state"]) == ("class", 1, 3, "open")


@ON_BOTH
def test_a_link_lets_in_as_many_as_it_was_made_for_even_when_they_come_at_once(
    client: TestClient, campaign: str, operator: Headers, database: Database, clock: Any
) -> None:
    made = invite(client, campaign, operator, max_uses=2)

    def come(_: int) -> str:
        try:
            with database.writer() as session:
                invitations.accept_as_guest(session, made["code"], "Kim", clock.now(), session_hours=1)
        except GoneError as refused:
            return refused.detail
        return "in"

    with ThreadPoolExecutor(6) as pool:
        outcomes = Counter(pool.map(come, range(6)))
    assert outcomes.pop("in") == 2
    assert outcomes.total() == 4
    with database.reader() as session:
        names = set(session.scalars(select(User.name).join(Guest, Guest.user_id == User.id)))
    assert names == {"Kim", "Kim 2"}  # nobody passes for somebody else
    assert listed(client, campaign, operator)[0]["state"] == "used_up"


@ON_BOTH
def test_the_code_is_kept_nowhere_and_the_deeds_are_audited(
    client: TestClient, campaign: str, operator: Headers, database: Database
) -> None:
    made = invite(client, campaign, operator, label="class")
    accept(client, made["code"])
    assert "code" not in listed(client, campaign, operator)[0]
    assert client.get(f"/campaigns/{campaign}", headers=operator).text.count(made["code"]) == 0
    assert len(made["code"]) >= 22  # 128 bits
    with database.reader() as session:
        row = session.scalars(select(Invitation)).one()
        assert row.code_hash == accounts.hash_token(made["code"])
        for table in ("invitation", "guest", "audit_entry", "user_account", "idempotency_key"):
            assert made["code"] not in str(session.execute(text(f"SELECT * FROM {table}")).all())
    client.delete(f"/api/v1/campaigns/{campaign}/invitations/{made['id']}", headers=operator)
    with database.reader() as session:
        deeds = {entry.action: entry for entry in session.scalars(select(AuditEntry))}
        guest = session.scalars(select(User).where(User.name == "Mira")).one()
    for action in ("invitation.create", "invitation.accept", "invitation.revoke"):
        assert (deeds[action].target, deeds[action].detail["campaign"]) == (made["id"], campaign)
    assert deeds["invitation.accept"].user_id == guest.id


def test_a_repeated_request_for_a_link_makes_no_second_one(
    client: TestClient, campaign: str, operator: Headers
) -> None:
    url, key = f"/api/v1/campaigns/{campaign}/invitations", {"Idempotency-Key": "once"}
    assert client.post(url, json={}, headers=operator | key).status_code == 201
    assert client.post(url, json={}, headers=operator | key).status_code == 409
    assert len(listed(client, campaign, operator)) == 1


def _expire(client: TestClient, url: str, operator: Headers, clock: Any) -> None:
    clock.advance(days=14)


def _revoke(client: TestClient, url: str, operator: Headers, clock: Any) -> None:
    assert client.delete(url, headers=operator).status_code == 204
    assert client.delete(url, headers=operator).status_code == 204


def _close(client: TestClient, url: str, operator: Headers, clock: Any) -> None:
    assert client.post(url.partition("/invitations")[0] + "/close", headers=operator).status_code == 200


@pytest.mark.parametrize(
    ("end", "words"),
    [(_expire, "has expired"), (_revoke, "was withdrawn"), (_close, "its campaign is closed")],
    ids=["expired", "revoked", "closed"],
)
def test_an_ended_link_lets_nobody_in_and_says_why_and_who_is_in_stays(
    client: TestClient, campaign: str, operator: Headers, clock: Any, settings: Settings, end: Any, words: str
) -> None:
    made = invite(client, campaign, operator)
    accept(client, made["code"])
    cookie = client.cookies[SESSION_COOKIE]
    client.cookies.clear()
    end(client, f"/api/v1/campaigns/{campaign}/invitations/{made['id']}", operator, clock)
    for answer in (client.get(f"/i/{made['code']}", headers=HERE), accept(client, made["code"], "Late")):
        assert answer.status_code == 410
        assert words in answer.text
        assert "set-cookie" not in answer.headers
    if end is not _expire:  # the session lasts two weeks too
        back = {"Cookie": f"{SESSION_COOKIE}={cookie}"} | HERE
        answer = client.get(f"/i/{made['code']}", headers=back, follow_redirects=False)
        assert answer.headers["location"] == f"/rate/{campaign}"
        assert client.get(f"/rate/{campaign}", headers=back).status_code == 200


def test_revoking_can_sign_out_those_who_came(client: TestClient, campaign: str, operator: Headers) -> None:
    made = invite(client, campaign, operator)
    accept(client, made["code"])
    url = f"/api/v1/campaigns/{campaign}/invitations/{made['id']}"
    assert client.delete(url, params={"sign_out": True}, headers=operator).status_code == 204
    assert client.get(f"/rate/{campaign}", headers=HERE, follow_redirects=False).headers["location"] == "/login"


@pytest.mark.parametrize("name", ["", "   ", "\u202e\u200b", "x" * 61])
def test_a_name_is_wanted_and_bounded(client: TestClient, campaign: str, operator: Headers, name: str) -> None:
    made = invite(client, campaign, operator)
    answer = accept(client, made["code"], name)
    assert answer.status_code == 422
    assert "Choose a name" in answer.text
    assert listed(client, campaign, operator)[0]["n_uses"] == 0


def test_a_guest_cannot_take_an_existing_name_nor_one_that_looks_like_it(
    client: TestClient, campaign: str, operator: Headers, database: Database
) -> None:
    made = invite(client, campaign, operator)
    accept(client, made["code"], "olga")
    accept(client, made["code"], "ol\u200bga")
    with database.reader() as session:
        names = set(session.scalars(select(User.name).join(Guest, Guest.user_id == User.id)))
        assert session.scalars(select(User).where(User.name == "olga")).one().role is Role.OPERATOR
    assert names == {"olga 2", "olga 3"}


def test_markup_in_a_name_or_label_is_shown_as_text(client: TestClient, campaign: str, operator: Headers) -> None:
    attack = "<img src=x onerror=alert(1)>"
    made = invite(client, campaign, operator, label=attack)
    accept(client, made["code"], attack)
    door = client.get(f"/i/{invite(client, campaign, operator)['code']}", headers=HERE, follow_redirects=False)
    assert door.headers["location"] == f"/rate/{campaign}"  # was here before
    page = client.get(f"/rate/{campaign}", headers=HERE).text
    client.cookies.clear()
    desk = client.get(f"/campaigns/{campaign}", headers=operator).text
    for text_ in (page, desk):
        assert "<img src=x" not in text_
    assert "&lt;img src=x" in desk


def test_someone_signed_in_joins_under_their_own_name_once(
    client: TestClient, campaign: str, operator: Headers, database: Database, clock: Any
) -> None:
    made = invite(client, campaign, operator)
    with database.writer() as session:
        rita = accounts.ensure_user(session, "rita", Role.RATER, clock.now())
        secret = accounts.start_web_session(session, rita.id, clock.now(), session_hours=1)
    client.cookies.set(SESSION_COOKIE, secret)
    assert "Go on as rita" in client.get(f"/i/{made['code']}", headers=HERE).text
    for _ in range(2):
        answer = client.post(f"/i/{made['code']}", headers=HERE, follow_redirects=False)
        assert answer.headers["location"] == f"/rate/{campaign}"
        assert "set-cookie" not in answer.headers
    assert client.get("/account", headers=HERE).status_code == 200  # she is no guest
    assert listed(client, campaign, operator)[0]["n_uses"] == 1


def test_a_guest_of_one_campaign_is_none_of_another_until_invited(
    client: TestClient, campaign: str, new_campaign: Callable[..., str], operator: Headers
) -> None:
    other = new_campaign(open=True)  # open to raters, which guests are not
    accept(client, invite(client, campaign, operator)["code"])
    cookie = {"Cookie": f"{SESSION_COOKIE}={client.cookies[SESSION_COOKIE]}"} | HERE
    client.cookies.clear()
    assert client.get(f"/rate/{other}", headers=cookie).status_code == 404
    assert client.post(f"/api/v1/campaigns/{other}/comparisons", headers=cookie).status_code == 404
    code = invite(client, other, operator)["code"]
    client.post(f"/i/{code}", headers=cookie, follow_redirects=False)
    assert client.get(f"/rate/{other}", headers=cookie).status_code == 200
    assert client.get(f"/rate/{campaign}", headers=cookie).status_code == 200


OPEN_TO_GUESTS = {
    ("GET", "/"),  # sends them to their campaign
    ("GET", "/rate/{campaign_id}"),
    ("POST", "/rate/{campaign_id}/vote"),
    ("POST", "/rate/{campaign_id}/undo"),
    ("POST", "/api/v1/campaigns/{campaign_id}/comparisons"),
    ("GET", "/api/v1/campaigns/{campaign_id}/examples"),
    ("GET", "/api/v1/campaigns/{campaign_id}/examples/{example_id}/{side}"),
    ("GET", "/api/v1/comparisons/{comparison_id}/{side}"),
    ("PUT", "/api/v1/comparisons/{comparison_id}/preference"),
    ("DELETE", "/api/v1/comparisons/{comparison_id}/preference"),
}
OPEN_TO_ALL = {
    ("GET", "/api/v1/openapi.json"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/login"),
    ("POST", "/login"),
    ("POST", "/logout"),
    ("GET", "/i/{code}"),
    ("POST", "/i/{code}"),
}


def every_route(app: Any) -> Iterator[tuple[str, str]]:
    for route in app.routes:
        found = [route] if hasattr(route, "methods") else []
        if hasattr(route, "effective_route_contexts"):
            found = route.effective_route_contexts()
        for each in found:
            yield from ((method, each.path) for method in each.methods - {"HEAD"})


def test_no_other_route_answers_a_guest(client: TestClient, campaign: str, operator: Headers) -> None:
    accept(client, invite(client, campaign, operator)["code"])
    routes = set(every_route(client.app))
    assert len(routes) > 80
    assert routes >= OPEN_TO_GUESTS | OPEN_TO_ALL
    for method, path in sorted(routes - OPEN_TO_GUESTS - OPEN_TO_ALL):
        url = path.replace("{campaign_id}", campaign).replace("{sha256}", "0" * 64).replace("{kind}", "sample")
        url = re.sub(r"\{[^}]+\}", SOME_ID, url)
        for accepts in ("text/html", "application/json", "text/event-stream"):
            answer = client.request(method, url, headers=HERE | {"Accept": accepts}, follow_redirects=False)
            assert answer.status_code == 403, f"{method} {path}: {answer.status_code}"
    assert client.get("/", headers=HERE, follow_redirects=False).headers["location"] == f"/rate/{campaign}"
    refused = client.get("/campaigns", headers=HERE)
    assert "Back to rating" in refused.text
    assert "/account" not in refused.text


def test_a_guest_with_a_token_or_a_sign_in_link_stays_a_guest(
    client: TestClient, campaign: str, operator: Headers, database: Database, sign_in: Any
) -> None:
    accept(client, invite(client, campaign, operator)["code"])
    client.cookies.clear()
    with database.reader() as session:
        guest = session.scalars(select(Guest.user_id)).one()
    admin = sign_in(Role.ADMIN)
    token = client.post("/api/v1/tokens", json={"name": "t", "user_id": str(guest)}, headers=admin).json()["token"]
    bearer = {"Authorization": f"Bearer {token}"}
    assert client.get("/api/v1/campaigns", headers=bearer).status_code == 403
    assert client.post(f"/api/v1/campaigns/{campaign}/comparisons", headers=bearer).status_code == 200
    page = client.post(f"/admin/users/{guest}/link", headers=admin).text
    link = re.search(r"/login\?token=[\w-]+", page)
    assert link is not None
    client.get(link[0], headers=HERE, follow_redirects=False)
    assert client.get("/account", headers=HERE).status_code == 403
    assert client.get("/", headers=HERE, follow_redirects=False).headers["location"] == f"/rate/{campaign}"


def test_a_guest_sees_no_foreign_pair_and_votes_on_none(
    client: TestClient, campaign: str, operator: Headers, database: Database
) -> None:
    (foreign,) = client.post(f"/api/v1/campaigns/{campaign}/comparisons", headers=operator).json()
    accept(client, invite(client, campaign, operator)["code"])
    pair = f"/api/v1/comparisons/{foreign['id']}"
    assert client.get(f"{pair}/left", headers=HERE).status_code == 403
    assert client.put(f"{pair}/preference", json={"choice": "left"}, headers=HERE).status_code == 403
    assert client.delete(f"{pair}/preference", headers=HERE).status_code == 403
    form = {"comparison_id": foreign["id"], "choice": "left"}
    for deed in ("vote", "undo"):
        assert client.post(f"/rate/{campaign}/{deed}", data=form, headers=HERE).status_code == 403
    with database.reader() as session:
        assert session.scalars(select(Preference)).all() == []
        assert session.get_one(Comparison, UUID(foreign["id"])).closed_at is None


@pytest.mark.parametrize("path", ["/i/{code}", "/rate/{campaign}/vote", "/rate/{campaign}/undo"])
@pytest.mark.parametrize(
    "origin", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}]
)
def test_another_site_can_neither_sign_a_visitor_in_nor_vote_for_them(
    client: TestClient, campaign: str, operator: Headers, database: Database, path: str, origin: Headers
) -> None:
    code = invite(client, campaign, operator, max_uses=5)["code"]
    accept(client, code)
    page = client.get(f"/rate/{campaign}", headers=HERE).text
    pair = re.search(r'name="comparison_id" value="([^"]+)"', page)
    assert pair is not None
    form = {"name": "Eve", "comparison_id": pair[1], "choice": "left"}
    answer = client.post(path.format(code=code, campaign=campaign), data=form, headers=origin)
    assert answer.status_code == 403
    with database.reader() as session:
        assert session.scalars(select(Preference)).all() == []
        assert session.scalars(select(User).where(User.name == "Eve")).all() == []


def test_guessing_codes_ends_soon_while_links_that_have_ended_cost_nothing(
    settings: Settings, clock: Any, operator: Headers, client: TestClient, campaign: str
) -> None:
    ended = invite(client, campaign, operator)
    client.delete(f"/api/v1/campaigns/{campaign}/invitations/{ended['id']}", headers=operator)
    good = invite(client, campaign, operator)
    limited = settings.model_copy(update={"failed_logins_per_minute": 3})
    with TestClient(create_app(limited, clock=clock), raise_server_exceptions=False) as visitor:
        for _ in range(5):
            assert visitor.get(f"/i/{ended['code']}", headers=HERE).status_code == 410
            assert visitor.get(f"/i/{good['code']}", headers=HERE).status_code == 200
        guesses = [visitor.get(f"/i/guess{n}", headers=HERE) for n in range(4)]
        assert [answer.status_code for answer in guesses] == [404, 404, 404, 429]
        assert accept(visitor, good["code"]).status_code == 429
        clock.advance(minutes=1)
        assert accept(visitor, good["code"]).status_code == 303


@pytest.mark.parametrize(
    "code", ["..%2f..%2fetc%2fpasswd", "%2e%2e", "a%00b", "x" * 5000, "%F0%9F%98%80", "' OR 1=1 --"]
)
def test_a_strange_code_is_an_unknown_one(client: TestClient, code: str) -> None:
    assert client.get(f"/i/{code}", headers=HERE).status_code == 404


def test_the_code_leaks_neither_by_referer_nor_by_the_log(
    client: TestClient, campaign: str, operator: Headers, caplog: pytest.LogCaptureFixture
) -> None:
    code = invite(client, campaign, operator)["code"]
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    answers = [client.get(f"/i/{code}", headers=HERE), accept(client, code), client.get(f"/i/{code}x", headers=HERE)]
    for answer in answers:
        # strict-origin: the path stands in no Referer at all, while forms still carry a usable Origin
        assert answer.headers["referrer-policy"] == "strict-origin"
        assert answer.headers["cache-control"] == "no-store"
    access = [record for record in caplog.records if record.name == "tastemaker.access"]
    assert len(access) >= 3
    for record in caplog.records:
        if record.name.startswith("httpx"):  # the test's own browser
            continue
        assert code not in record.getMessage() + str(record.__dict__)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"max_uses": 0}, "max_uses"),
        ({"max_uses": 10_001}, "max_uses"),
        ({"label": "x" * 121}, "label"),
        ({"expires_at": "2025-12-31T00:00:00Z"}, "expires_at"),
        ({"expires_at": "2028-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "2026-01-02T00:00:00"}, "expires_at"),
        ({"forever": True}, "forever"),
    ],
)
def test_a_wrong_field_is_named(
    client: TestClient, campaign: str, operator: Headers, body: dict[str, Any], field: str
) -> None:
    answer = client.post(f"/api/v1/campaigns/{campaign}/invitations", json=body, headers=operator)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]


def test_a_links_end_may_be_chosen(client: TestClient, campaign: str, operator: Headers, clock: Any) -> None:
    end = datetime(2026, 1, 3, tzinfo=UTC)
    made = invite(client, campaign, operator, expires_at=end.isoformat())
    clock.time = end - timedelta(seconds=1)
    assert client.get(f"/i/{made['code']}", headers=HERE).status_code == 200
    clock.time = end
    assert client.get(f"/i/{made['code']}", headers=HERE).status_code == 410


def test_only_operators_invite(client: TestClient, campaign: str, operator: Headers, sign_in: Any) -> None:
    rater = sign_in(Role.RATER)
    made = invite(client, campaign, operator)
    url = f"/api/v1/campaigns/{campaign}/invitations"
    for who, status in ((rater, 403), ({}, 401)):
        assert client.post(url, json={}, headers=who).status_code == status
        assert client.get(url, headers=who).status_code == status
        assert client.delete(f"{url}/{made['id']}", headers=who).status_code == status
    assert client.post(f"/api/v1/campaigns/{SOME_ID}/invitations", json={}, headers=operator).status_code == 404
    assert client.delete(f"{url}/{SOME_ID}", headers=operator).status_code == 404
    client.post(f"/api/v1/campaigns/{campaign}/close", headers=operator)
    assert client.post(url, json={}, headers=operator).status_code == 409


def test_the_campaign_page_makes_a_link_shows_it_once_and_revokes_it(
    client: TestClient, campaign: str, operator: Headers
) -> None:
    form = {"label": "drawing class", "max_uses": "12", "days": "3"}
    page = client.post(f"/campaigns/{campaign}/invitations", data=form, headers=operator | {"Accept": "text/html"})
    assert page.status_code == 200
    url = re.search(r'id="link">([^<]+)<', page.text)
    assert url is not None
    assert 'src="data:image/svg+xml' in page.text
    assert client.get(url[1].removeprefix("http://testserver"), headers=HERE).status_code == 200
    (row,) = listed(client, campaign, operator)
    assert (row["label"], row["max_uses"], row["expires_at"]) == ("drawing class", 12, "2026-01-04T00:00:00Z")
    campaign_page = client.get(f"/campaigns/{campaign}", headers=operator)
    assert "drawing class" in campaign_page.text
    assert url[1] not in campaign_page.text
    client.post(f"/campaigns/{campaign}/invitations/{row['id']}/revoke", headers=operator)
    assert listed(client, campaign, operator)[0]["state"] == "revoked"
    for wrong in ({**form, "max_uses": "many"}, {**form, "days": "367"}):
        assert client.post(f"/campaigns/{campaign}/invitations", data=wrong, headers=operator).status_code == 422
