"""/users and /tokens: who may come in (admins only)."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, StringConstraints

from app.domain.documented import Documented
from app.domain.enums import Role
from app.services import people
from app.services.people import NewTokenView, TokenView, UserView
from app.web.api.problems import problems
from app.web.deps import CurrentAdmin, Now, ReadSession, WriteSession
from app.web.idempotency import ApiRoute, answer_is_secret
from app.web.pagination import After, Limit, Page

router = APIRouter(tags=["people"], route_class=ApiRoute)

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=120)]


class UserIn(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"name": "ada", "role": "rater"}})

    name: Name
    role: Role
    password: str | None = None


class TokenIn(Documented):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"user_id": "5f0c6c1e-0000-4000-8000-000000000000", "name": "notebook"}},
    )

    name: Name
    user_id: UUID | None = None
    """Whose token it is; the caller's own when left out."""
    role: Role | None = None
    """At most the user's role, which is also the default."""
    expires_at: AwareDatetime | None = None
    """Never, when left out."""


@router.get("/users", summary="List users, newest first")
def list_users(session: ReadSession, _caller: CurrentAdmin, after: After, limit: Limit = 50) -> Page[UserView]:
    return Page.of(people.list_users(session, after=after, limit=limit))


@router.post("/users", status_code=201, summary="Make a user", responses=problems(409))
def create_user(body: UserIn, session: WriteSession, caller: CurrentAdmin, now: Now, response: Response) -> UserView:
    user = people.create_user(session, caller, name=body.name, role=body.role, password=body.password, now=now)
    response.headers["Location"] = f"/api/v1/users/{user.id}"
    return user


@router.get("/users/{user_id}", summary="One user", responses=problems(404))
def get_user(user_id: UUID, session: ReadSession, _caller: CurrentAdmin) -> UserView:
    return people.get_user(session, user_id)


@router.delete("/users/{user_id}", status_code=204, summary="Shut a user out", responses=problems(404, 409))
def disable_user(user_id: UUID, session: WriteSession, caller: CurrentAdmin, now: Now) -> None:
    """Their tokens and browser sessions end at once; their votes stay."""
    people.disable_user(session, caller, user_id, now)


@router.get("/tokens", summary="List tokens, newest first")
def list_tokens(
    session: ReadSession,
    _caller: CurrentAdmin,
    after: After,
    limit: Limit = 50,
    user_id: Annotated[UUID | None, Query(description="Only this user's.")] = None,
) -> Page[TokenView]:
    return Page.of(people.list_tokens(session, user_id=user_id, after=after, limit=limit))


@router.post(
    "/tokens",
    status_code=201,
    summary="Make a token; its secret is shown this once",
    responses=problems(409),
    dependencies=[Depends(answer_is_secret)],
)
def create_token(body: TokenIn, session: WriteSession, caller: CurrentAdmin, now: Now) -> NewTokenView:
    """A repeat with the same `Idempotency-Key` makes no second token, and is refused: the secret was not kept."""
    expires_at: datetime | None = body.expires_at
    return people.create_token(
        session, caller, user_id=body.user_id, name=body.name, role=body.role, expires_at=expires_at, now=now
    )


@router.delete("/tokens/{token_id}", status_code=204, summary="Revoke a token", responses=problems(404))
def revoke_token(token_id: UUID, session: WriteSession, caller: CurrentAdmin, now: Now) -> None:
    people.revoke_token(session, caller, token_id, now)
