"""Who may come in: users, tokens, roles, sign-in links, passwords, sessions, and other people's web sites."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from app.config import Settings
from app.db.models import ApiToken, AuditEntry, IdempotencyKey, User, WebSession
from app.db.session import Database
from app.domain.enums import Role
from app.main import create_app
from app.services import accounts
from app.web.deps import SESSION_COOKIE

UNKNOWN = UUID(int=7)  # an id that nothing has

Headers = dict[str, str]
SignIn = Callable[..., Headers]
ON_SQLITE_ALONE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For tests in which no SQL of interest runs."""
HERE = {"Origin": "http://testserver"}
PASSWORD = "correct horse battery"


@pytest.fixture
def admin(sign_in: SignIn) -> Headers:
    return sign_in(Role.ADMIN, "root")


def make_user(client: TestClient, admin: Headers, name: str = "ada", role: str = "operator", **more: Any) -> Any:
    return client.post("/api/v1/users", json={"name": name, "role": role, **more}, headers=admin)


def make_token(client: TestClient, admin: Headers, **fields: Any) -> Any:
    return client.post("/api/v1/tokens", json={"name": "laptop", **fields}, headers=admin)


def as_bearer(token: str) -> Headers:
    return {"Authorization": f"Bearer {token}"}


def test_a_token_works_from_its_making_to_its_revocation(client: TestClient, admin: Headers) -> None:
    user = make_user(client, admin).json()
    made = make_token(client, admin, user_id=user["id"])
    assert made.status_code == 201
    token = made.json()
    assert (token["user_id"], token["user_name"], token["role"]) == (user["id"], "ada", "operator")
    bearer = as_bearer(token["token"])
    assert client.get("/api/v1/jobs", headers=bearer).status_code == 200
    for _ in range(2):
        assert client.delete(f"/api/v1/tokens/{token['id']}", headers=admin).status_code == 204
    assert client.get("/api/v1/jobs", headers=bearer).status_code == 401


def test_the_secret_of_a_token_is_shown_once_and_kept_nowhere(
    client: TestClient, admin: Headers, database: Database
) -> None:
    headers = {**admin, "Idempotency-Key": "k"}
    secret = make_token(client, headers).json()["token"]
    listed = client.get("/api/v1/tokens", headers=admin)
    assert secret not in listed.text
    assert "token_hash" not in listed.text
    with database.reader() as session:
        stored = [row.token_hash for row in session.scalars(select(ApiToken))]
        assert accounts.hash_token(secret) in stored
        assert secret not in stored
        assert secret.encode() not in session.scalars(select(IdempotencyKey.body)).one()
    repeat = make_token(client, headers)
    assert repeat.status_code == 409  # the answer cannot be given again, and no second token is made
    assert len(client.get("/api/v1/tokens", headers=admin).json()["items"]) == len(stored)


def test_a_token_expires(client: TestClient, admin: Headers, clock: Any) -> None:
    moment = clock.now() + timedelta(hours=1)
    bearer = as_bearer(make_token(client, admin, expires_at=moment.isoformat()).json()["token"])
    assert client.get("/api/v1/jobs", headers=bearer).status_code == 200
    clock.advance(hours=1)
    assert client.get("/api/v1/jobs", headers=bearer).status_code == 401


def test_a_tokens_last_use_is_known_to_the_hour(client: TestClient, admin: Headers, clock: Any) -> None:
    token = make_token(client, admin).json()

    def last_used() -> str | None:
        items = client.get("/api/v1/tokens", headers=admin).json()["items"]
        return next(item["last_used_at"] for item in items if item["id"] == token["id"])

    assert last_used() is None
    client.get("/api/v1/jobs", headers=as_bearer(token["token"]))
    first = last_used()
    assert first is not None
    clock.advance(minutes=59)
    client.get("/api/v1/jobs", headers=as_bearer(token["token"]))
    assert last_used() == first
    clock.advance(minutes=1)
    client.get("/api/v1/jobs", headers=as_bearer(token["token"]))
    assert last_used() != first


@ON_SQLITE_ALONE
@pytest.mark.parametrize(
    ("fields", "status", "field"),
    [
        ({"user_id": str(UNKNOWN)}, 422, "user_id"),
        ({"expires_at": "2025-12-31T00:00:00Z"}, 422, "expires_at"),
        ({"expires_at": "2027-01-01T00:00:00"}, 422, "expires_at"),
        ({"name": ""}, 422, "name"),
        ({"role": "root"}, 422, "role"),
    ],
)
def test_a_wrong_token_names_the_field(
    client: TestClient, admin: Headers, fields: dict[str, Any], status: int, field: str
) -> None:
    answer = make_token(client, admin, **fields)
    assert answer.status_code == status
    assert [error["field"] for error in answer.json()["errors"]] == [field]


@ON_SQLITE_ALONE
def test_a_token_cannot_rise_above_its_user(client: TestClient, admin: Headers) -> None:
    rater = make_user(client, admin, role="rater").json()
    assert make_token(client, admin, user_id=rater["id"], role="operator").status_code == 403


@ON_SQLITE_ALONE
def test_a_lower_token_of_an_admin_is_no_admin(client: TestClient, admin: Headers) -> None:
    bearer = as_bearer(make_token(client, admin, role="rater").json()["token"])
    assert client.get("/api/v1/users", headers=bearer).status_code == 403


def test_a_name_belongs_to_one_user(client: TestClient, admin: Headers) -> None:
    first = make_user(client, admin)
    assert first.status_code == 201
    assert first.headers["location"] == f"/api/v1/users/{first.json()['id']}"
    assert client.get(first.headers["location"], headers=admin).json() == first.json()
    assert make_user(client, admin).status_code == 409


def test_a_disabled_user_is_out_at_once_and_everywhere(
    client: TestClient, admin: Headers, database: Database, clock: Any
) -> None:
    user = make_user(client, admin).json()
    bearer = as_bearer(make_token(client, admin, user_id=user["id"]).json()["token"])
    with database.writer() as session:
        row = session.get_one(User, UUID(user["id"]))
        secret = accounts.start_web_session(session, row.id, clock.now(), session_hours=1)
    cookie = {"Cookie": f"{SESSION_COOKIE}={secret}"}
    assert client.get("/api/v1/jobs", headers=bearer).status_code == 200
    assert client.get("/api/v1/jobs", headers=cookie).status_code == 200
    for _ in range(2):
        assert client.delete(f"/api/v1/users/{user['id']}", headers=admin).status_code == 204
    assert client.get("/api/v1/jobs", headers=bearer).status_code == 401
    assert client.get("/api/v1/jobs", headers=cookie).status_code == 401
    listed = client.get("/api/v1/users", headers=admin).json()["items"]
    assert next(item for item in listed if item["id"] == user["id"])["disabled_at"] is not None
    assert make_token(client, admin, user_id=user["id"]).status_code == 422
    with database.reader() as session:
        actions = list(session.scalars(select(AuditEntry.action)))
    for action in ("token.create", "user.create", "user.disable"):
        assert actions.count(action) == 1


@ON_SQLITE_ALONE
def test_an_admin_cannot_lock_themselves_out(client: TestClient, admin: Headers) -> None:
    me = next(user for user in client.get("/api/v1/users", headers=admin).json()["items"] if user["name"] == "root")
    assert client.delete(f"/api/v1/users/{me['id']}", headers=admin).status_code == 409
    assert client.delete(f"/api/v1/users/{uuid4()}", headers=admin).status_code == 404
    assert client.delete(f"/api/v1/tokens/{uuid4()}", headers=admin).status_code == 404


@ON_SQLITE_ALONE
@pytest.mark.parametrize("role", [Role.RATER, Role.OPERATOR, None])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/users"),
        ("POST", "/users"),
        ("DELETE", f"/users/{UNKNOWN}"),
        ("GET", "/tokens"),
        ("POST", "/tokens"),
    ],
)
def test_only_admins_administer(client: TestClient, sign_in: SignIn, role: Role | None, method: str, path: str) -> None:
    headers = sign_in(role) if role else {}
    answer = client.request(method, f"/api/v1{path}", json={"name": "eve", "role": "admin"}, headers=headers)
    assert answer.status_code == (403 if role else 401)


@ON_SQLITE_ALONE
@pytest.mark.parametrize(
    "path",
    ["/checkpoints", f"/checkpoints/{UNKNOWN}", f"/checkpoints/{UNKNOWN}/lineage", "/samples", f"/samples/{UNKNOWN}",
     f"/samples/{UNKNOWN}/image", f"/samples/{UNKNOWN}/transitions", "/jobs", f"/jobs/{UNKNOWN}",
     f"/jobs/{UNKNOWN}/events", f"/jobs/{UNKNOWN}/metrics", "/rewards"],
)  # fmt: skip
def test_a_rater_sees_nothing_that_unblinds(client: TestClient, sign_in: SignIn, path: str) -> None:
    answer = client.get(f"/api/v1{path}", headers=sign_in(Role.RATER))
    assert answer.status_code == 403
    assert client.get(f"/api/v1{path}").status_code == 401


@ON_SQLITE_ALONE
@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Basic YTpi", "Bearer tm_wrong", "tm_wrong"])
def test_a_malformed_or_unknown_token_is_401_with_a_challenge(client: TestClient, header: str) -> None:
    answer = client.get("/api/v1/jobs", headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


# signing in with a browser


@pytest.fixture
def link(database: Database, clock: Any) -> str:
    """A one-time sign-in link of an operator with a password."""
    with database.writer() as session:
        user = accounts.ensure_user(session, "grace", Role.OPERATOR, clock.now())
        accounts.set_password(session, user, PASSWORD)
        token = accounts.create_login_token(session, user, clock.now(), valid_for=timedelta(hours=1))
    return f"/login?token={token}"


def test_a_sign_in_link_works_once(client: TestClient, link: str) -> None:
    answer = client.get(link, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Secure" not in cookie  # http://
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert client.get("/api/v1/jobs").status_code == 200
    client.cookies.clear()
    again = client.get(link, follow_redirects=False)
    assert again.status_code == 401
    assert "set-cookie" not in again.headers


def test_a_sign_in_link_expires(client: TestClient, link: str, clock: Any) -> None:
    clock.advance(hours=1)
    assert client.get(link, follow_redirects=False).status_code == 401


def test_a_browser_session_expires(client: TestClient, link: str, clock: Any, settings: Settings) -> None:
    client.get(link, follow_redirects=False)
    clock.advance(hours=settings.session_hours)
    assert client.get("/api/v1/jobs").status_code == 401


@ON_SQLITE_ALONE
def test_the_cookie_is_secure_behind_https(settings: Settings, clock: Any, link: str) -> None:
    with TestClient(create_app(settings.model_copy(update={"base_url": "https://taste.lab"}), clock=clock)) as client:
        assert "Secure" in client.get(link, follow_redirects=False).headers["set-cookie"]


def log_in(client: TestClient, password: str = PASSWORD, name: str = "grace", headers: Headers = HERE) -> Any:
    form = {"name": name, "password": password}
    return client.post("/login", data=form, headers=headers, follow_redirects=False)


def test_a_password_signs_in(client: TestClient, link: str) -> None:
    assert log_in(client).status_code == 303
    assert client.get("/api/v1/jobs").status_code == 200


@ON_SQLITE_ALONE
def test_a_wrong_password_and_an_unknown_name_look_alike(client: TestClient, link: str) -> None:
    wrong, unknown = log_in(client, "wrong password"), log_in(client, PASSWORD, "nobody")
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.text.replace("grace", "") == unknown.text.replace("nobody", "")
    assert "set-cookie" not in wrong.headers


class TestGuessing:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        """Without the limit by address, which guessers who share a name and no address do not meet."""
        return settings.model_copy(update={"failed_logins_per_minute": 1000})

    def test_guessing_a_password_is_stopped_for_a_while(self, client: TestClient, link: str, clock: Any) -> None:
        for _ in range(10):
            assert log_in(client, "wrong password").status_code == 401
        assert log_in(client).status_code == 429
        clock.advance(minutes=16)
        assert log_in(client).status_code == 303


@ON_SQLITE_ALONE
@pytest.mark.parametrize("password", ["short", "x" * 201])
def test_a_poor_password_is_refused(client: TestClient, admin: Headers, password: str) -> None:
    answer = make_user(client, admin, password=password)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "password"


def test_a_password_is_kept_as_an_argon2_hash(client: TestClient, admin: Headers, database: Database) -> None:
    made = make_user(client, admin, "eve", password=PASSWORD)
    assert made.json()["has_password"] is True
    assert "password_hash" not in made.text
    with database.reader() as session:
        stored = session.scalars(select(User.password_hash).where(User.name == "eve")).one()
    assert stored is not None
    assert stored.startswith("$argon2id$")
    assert log_in(client, name="eve").status_code == 303


def test_signing_out_ends_the_session_and_empties_the_cache(client: TestClient, link: str, database: Database) -> None:
    client.get(link, follow_redirects=False)
    cookie = {"Cookie": f"{SESSION_COOKIE}={client.cookies[SESSION_COOKIE]}"}
    answer = client.post("/logout", headers=HERE, follow_redirects=False)
    assert (answer.status_code, answer.headers["clear-site-data"]) == (303, '"cache"')
    client.cookies.clear()
    assert client.get("/api/v1/jobs", headers=cookie).status_code == 401  # a stolen copy is worth nothing either
    with database.reader() as session:
        assert session.scalars(select(WebSession)).all() == []


# other people's web sites

FOREIGN: list[Headers] = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://testserver.evil.example"},
    {"Origin": "http://testserver:8001"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "http://testserver", "Sec-Fetch-Site": "cross-site"},
    {},
]


@ON_SQLITE_ALONE
@pytest.mark.parametrize("headers", FOREIGN)
def test_another_site_cannot_act_with_a_visitors_cookie(client: TestClient, link: str, headers: Headers) -> None:
    client.get(link, follow_redirects=False)
    for path in ("/api/v1/jobs", f"/api/v1/jobs/{uuid4()}/cancel", "/logout"):
        assert client.post(path, json={"kind": "sample", "spec": {}}, headers=headers).status_code == 403
    assert client.get("/api/v1/jobs").status_code == 200
    own = client.post(f"/api/v1/jobs/{uuid4()}/cancel", headers=HERE)
    assert own.status_code == 404  # the site itself gets through to the job that is not there


@ON_SQLITE_ALONE
@pytest.mark.parametrize("headers", FOREIGN)
def test_another_site_cannot_sign_a_visitor_in(client: TestClient, link: str, headers: Headers) -> None:
    assert log_in(client, headers=headers).status_code == 403


@ON_SQLITE_ALONE
def test_no_other_sites_script_may_read_an_answer(client: TestClient, admin: Headers) -> None:
    answer = client.options(
        "/api/v1/jobs", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"}
    )
    assert "access-control-allow-origin" not in answer.headers
    got = client.get("/api/v1/jobs", headers={**admin, "Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in got.headers
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["cache-control"] == "no-store"
