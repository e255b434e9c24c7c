"""Rating pages against threats 1, 3, 14, 15 and 16: strange paths, markup, forged votes, unblinding, cached pages."""

import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from sqlalchemy import select

from app.config import Settings
from app.db.models import Preference, Sample
from app.db.session import Database
from app.domain.enums import Role
from app.services import accounts
from tests.labeling_data import add_checkpoint

Headers = dict[str, str]
HERE = {"Origin": "http://testserver", "Accept": "text/html"}
ATTACK = '"><script>alert(1)</script><img src=x onerror=alert(2)><svg onload=alert(3)>'
MARKDOWN_ATTACK = (
    f"{ATTACK}\n\n[a](javascript:alert(4)) ![b](https://evil.example/x.png) [c](data:text/html;base64,eA==)"
)


@pytest.fixture
def database_url(sqlite_database_url: str) -> str:
    """None of this is SQL's affair."""
    return sqlite_database_url


@pytest.fixture
def operator(sign_in: Callable[..., Headers]) -> Headers:
    return sign_in(Role.OPERATOR, "olga")


@pytest.fixture
def checkpoints(database: Database, settings: Settings) -> list[UUID]:
    return [add_checkpoint(database, settings, name) for name in ("secret-base", "secret-tuned")]


@pytest.fixture
def campaign(client: TestClient, operator: Headers, checkpoints: list[UUID]) -> str:
    body = {
        "name": ATTACK, "question": ATTACK, "guidelines": MARKDOWN_ATTACK, "open": True, "strategy": "tournament",
        "checkpoint_ids": [str(id) for id in checkpoints],
    }  # fmt: skip
    return str(client.post("/api/v1/campaigns", json=body, headers=operator).json()["id"])


@pytest.fixture
def rater(client: TestClient, database: Database, clock: Any) -> Headers:
    """A rater's browser session."""
    with database.writer() as session:
        user = accounts.ensure_user(session, ATTACK[:120], Role.RATER, clock.now())
        secret = accounts.start_web_session(session, user.id, clock.now(), session_hours=24)
    return HERE | {"Cookie": f"tastemaker_session={secret}"}


def samples_of(database: Database, checkpoint: UUID) -> list[Sample]:
    with database.reader() as session:
        return list(session.scalars(select(Sample).where(Sample.checkpoint_id == checkpoint).order_by(Sample.ordinal)))


def add_example(client: TestClient, campaign: str, operator: Headers, left: UUID, right: UUID, **fields: Any) -> Any:
    body = {"left_sample_id": str(left), "right_sample_id": str(right), "choice": "left", **fields}
    return client.post(f"/api/v1/campaigns/{campaign}/examples", json=body, headers=operator)


def shown(page: str) -> UUID:
    found = re.search(r'name="comparison_id" value="([^"]+)"', page)
    assert found is not None
    return UUID(found[1])


class Danger(HTMLParser):
    """What a page could run, fetch from elsewhere, or style by itself."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag == "script" and not (given.get("src") or "").startswith("/static/"):
            self.found.append("a script of its own")
        if tag in ("iframe", "object", "embed", "base", "style", "svg"):
            self.found.append(tag)
        for name, value in attributes:
            if name.startswith("on") or name == "style":
                self.found.append(name)
            if name in ("href", "src", "action") and re.match(r"\s*(javascript|data|https?):", value or "", re.I):
                self.found.append(f"{name}={value}")


def test_no_markup_that_people_write_runs_on_a_page_that_raters_see(
    client: TestClient, campaign: str, rater: Headers, operator: Headers, database: Database, checkpoints: list[UUID]
) -> None:
    left, right, *_ = samples_of(database, checkpoints[0])
    assert add_example(client, campaign, operator, left.id, right.id, note=ATTACK).status_code == 201
    code = client.post(f"/api/v1/campaigns/{campaign}/invitations", json={}, headers=operator).json()["code"]
    for path in (f"/rate/{campaign}", f"/rate/{campaign}?guidelines=1&stop=1", "/", f"/i/{code}"):
        page = client.get(path, headers=rater)
        assert page.status_code == 200, path
        assert Danger(page.text).found == [], path
        policy = page.headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert page.headers["x-content-type-options"] == "nosniff"
    assert "alert(1)" in client.get(f"/rate/{campaign}", headers=rater).text  # shown as the text that it is


def test_the_check_for_danger_sees_danger() -> None:
    attacks = ["<script>x</script>", "<p onclick=x>", "<a href=' JavaScript:x'>", "<img src=//x style=y>", "<svg>"]
    assert all(Danger(attack).found for attack in attacks)


def test_nothing_of_a_page_a_header_or_an_image_tells_where_a_sample_comes_from(
    client: TestClient, campaign: str, rater: Headers, operator: Headers, database: Database, checkpoints: list[UUID]
) -> None:
    own, *_ = samples_of(database, checkpoints[0])
    twin, *_ = samples_of(database, checkpoints[1])
    example = add_example(client, campaign, operator, own.id, twin.id).json()["id"]
    page = client.get(f"/rate/{campaign}?guidelines=1", headers=rater)
    pair = shown(page.text)
    answers = [page]
    for side in ("left", "right"):
        answers.append(client.get(f"/api/v1/comparisons/{pair}/{side}", headers=rater))
        answers.append(client.get(f"/api/v1/campaigns/{campaign}/examples/{example}/{side}", headers=rater))
    answers.append(client.get(f"/api/v1/campaigns/{campaign}/examples", headers=rater))
    secrets = ["secret-base", "secret-tuned", "tournament"]
    for checkpoint in checkpoints:
        secrets.append(str(checkpoint))
        for sample in samples_of(database, checkpoint):
            secrets += [str(sample.id), sample.sha256]
    for answer in answers:
        assert answer.status_code == 200
        everything = answer.content.decode("latin-1") + str(answer.headers)
        assert not [secret for secret in secrets if secret in everything]
        assert not {"etag", "last-modified", "content-disposition", "location"} & set(answer.headers)
        assert answer.headers["cache-control"] == "no-store"
        if answer.headers["content-type"] == "image/png":
            assert Image.open(io.BytesIO(answer.content)).info == {}


def test_a_form_cannot_forge_a_vote(
    client: TestClient, campaign: str, rater: Headers, database: Database, clock: Any, sign_in: Callable[..., Headers]
) -> None:
    pair = shown(client.get(f"/rate/{campaign}", headers=rater).text)

    def vote(**fields: str) -> int:
        form = {"comparison_id": str(pair), "choice": "left", **fields}
        answer = client.post(f"/rate/{campaign}/vote", data=form, headers=rater, follow_redirects=False)
        return int(answer.status_code)

    def stored() -> list[tuple[UUID, str]]:
        with database.reader() as session:
            return [(row.comparison_id, row.choice.value) for row in session.scalars(select(Preference))]

    assert vote(choice="winner") == 422
    assert vote(comparison_id="../1") == 422
    assert vote(comparison_id="00000000-0000-4000-8000-000000000000") == 404
    (foreign,) = client.post(f"/api/v1/campaigns/{campaign}/comparisons", headers=sign_in(Role.RATER)).json()
    assert vote(comparison_id=foreign["id"]) == 403
    assert stored() == []
    clock.advance(minutes=16)
    assert vote() == 303  # overdue: back to the page, and nothing is stored
    assert stored() == []
    assert shown(client.get(f"/rate/{campaign}", headers=rater).text) == pair  # it waited; now it is reserved again
    assert vote() == 303
    assert vote() == 303  # a replay is the same vote
    assert stored() == [(pair, "left")]
    clock.advance(minutes=61)
    assert vote(choice="right") == 409  # too late to be changed
    undo = client.post(f"/rate/{campaign}/undo", data={"comparison_id": str(pair)}, headers=rater)
    assert undo.status_code == 409
    assert stored() == [(pair, "left")]


@pytest.mark.parametrize(
    "path", ["{pair}/..%2fleft", "{pair}/left%00", "{pair}/%2e%2e", "..%2f..%2fetc/left", "{pair}/middle"]
)
def test_a_strange_path_to_an_image_is_no_image(client: TestClient, campaign: str, rater: Headers, path: str) -> None:
    pair = shown(client.get(f"/rate/{campaign}", headers=rater).text)
    assert client.get(f"/api/v1/comparisons/{path.format(pair=pair)}", headers=rater).status_code in (404, 422)


def test_after_signing_out_no_page_or_image_comes_back(client: TestClient, campaign: str, rater: Headers) -> None:
    pair = shown(client.get(f"/rate/{campaign}", headers=rater).text)
    out = client.post("/logout", headers=rater, follow_redirects=False)
    assert out.headers["clear-site-data"] == '"cache"'  # not "storage": votes that wait to be sent stay
    assert client.get(f"/rate/{campaign}", headers=rater, follow_redirects=False).headers["location"] == "/login"
    assert client.get(f"/api/v1/comparisons/{pair}/left", headers=rater).status_code == 401


def test_the_page_knows_which_votes_it_has_counted(
    client: TestClient, campaign: str, rater: Headers, database: Database
) -> None:
    given = []
    for _ in range(3):
        page = client.get(f"/rate/{campaign}", headers=rater).text
        given.append(shown(page))
        client.put(f"/api/v1/comparisons/{given[-1]}/preference", json={"choice": "tie"}, headers=rater)
    page = client.get(f"/rate/{campaign}", headers=rater).text
    counted = re.search(r'data-counted="([^"]*)"', page)
    assert counted is not None
    assert {UUID(id) for id in counted[1].split()} == set(given)
    assert 'data-mine="3"' in page


# example pairs over REST


def test_an_example_is_added_listed_shown_to_raters_and_removed(
    client: TestClient, campaign: str, rater: Headers, operator: Headers, database: Database, checkpoints: list[UUID]
) -> None:
    left, right, *_ = samples_of(database, checkpoints[0])
    made = add_example(client, campaign, operator, left.id, right.id, choice="tie", note=" Both are fine. ")
    assert made.status_code == 201
    assert made.json() == {"id": made.json()["id"], "choice": "tie", "note": "Both are fine.", "width": 8}
    url = f"/api/v1/campaigns/{campaign}/examples"
    assert client.get(url, headers=rater).json() == {"items": [made.json()]}
    assert "Both are fine." in client.get(f"/rate/{campaign}", headers=rater).text
    assert client.delete(f"{url}/{made.json()['id']}", headers=operator).status_code == 204
    assert client.delete(f"{url}/{made.json()['id']}", headers=operator).status_code == 404
    assert client.get(url, headers=rater).json() == {"items": []}


def test_a_wrong_example_is_refused_and_there_is_an_end_to_them(
    client: TestClient, campaign: str, rater: Headers, operator: Headers, database: Database, checkpoints: list[UUID]
) -> None:
    left, right, *_ = samples_of(database, checkpoints[0])
    unknown = UUID(int=7)
    wrong = [
        (unknown, right.id, "left_sample_id"),
        (left.id, unknown, "right_sample_id"),
        (left.id, left.id, "right_sample_id"),
    ]
    for a, b, field in wrong:
        refused = add_example(client, campaign, operator, a, b)
        assert refused.status_code == 422
        assert [error["field"] for error in refused.json()["errors"]] == [field]
    assert add_example(client, campaign, operator, left.id, right.id, note="x" * 301).status_code == 422
    assert add_example(client, campaign, rater, left.id, right.id).status_code == 403
    assert add_example(client, str(unknown), operator, left.id, right.id).status_code == 404
    for _ in range(12):
        assert add_example(client, campaign, operator, left.id, right.id).status_code == 201
    assert add_example(client, campaign, operator, left.id, right.id).status_code == 409


def test_an_example_is_seen_only_by_those_who_may_rate(
    client: TestClient, operator: Headers, database: Database, checkpoints: list[UUID], rater: Headers
) -> None:
    body = {"name": "n", "question": "Which?", "checkpoint_ids": [str(checkpoints[0])]}  # not open
    closed = client.post("/api/v1/campaigns", json=body, headers=operator).json()["id"]
    left, right, *_ = samples_of(database, checkpoints[0])
    example = add_example(client, closed, operator, left.id, right.id).json()["id"]
    url = f"/api/v1/campaigns/{closed}/examples"
    assert client.get(f"{url}/{example}/left", headers=operator).status_code == 200
    assert client.get(f"{url}/{example}/left", headers=rater).status_code == 404
    assert client.get(url, headers=rater).status_code == 404
    client.cookies.clear()
    assert client.get(f"{url}/{example}/left").status_code == 401


def test_the_campaign_page_adds_an_example_by_its_seeds(
    client: TestClient, campaign: str, operator: Headers, checkpoints: list[UUID]
) -> None:
    form = {"checkpoint_id": str(checkpoints[1]), "left": "3", "right": "5", "choice": "right", "note": "Because."}
    url = f"/campaigns/{campaign}/examples"
    assert client.post(url, data=form, headers=operator, follow_redirects=False).status_code == 303
    assert "Because." in client.get(f"/campaigns/{campaign}", headers=operator).text
    for wrong in ({"left": "99"}, {"left": "-1"}, {"choice": "maybe"}, {"checkpoint_id": "x"}):
        assert client.post(url, data=form | wrong, headers=operator).status_code == 422, wrong
