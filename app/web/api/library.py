"""/library: the retention rule of intermediate checkpoints, and disk use."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from app.domain.retention import RetentionRule
from app.services import library
from app.services.library import MOST_AT_ONCE, RetentionPreview, StorageUse
from app.web.api.problems import problems
from app.web.deps import Blobs, CurrentOperator, CurrentSettings, Now, ReadSession, State, WriteSession
from app.web.idempotency import ApiRoute

router = APIRouter(prefix="/library", tags=["library"], route_class=ApiRoute)


class ApplyIn(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "rule": {"keep_every": 5, "keep_last": 3},
                "checkpoint_ids": ["6f1f6f0e-8f7a-4d5e-9b53-2f6c3c1f7a10"],
            }
        },
    )

    rule: RetentionRule
    checkpoint_ids: list[UUID] = Field(
        max_length=MOST_AT_ONCE, description="What the preview would delete; no other checkpoint is touched."
    )
    states: bool = Field(default=False, description="Whether to let go of old states too (`keep_states_days`).")


class Applied(BaseModel):
    deleted: list[UUID]
    n_states: int = Field(description="Runs that let go of their state.")


@router.get("/storage", summary="What the library takes on disk")
def get_storage(session: ReadSession, settings: CurrentSettings, _caller: CurrentOperator) -> StorageUse:
    return library.storage_use(session, settings)


@router.get("/retention", summary="The retention rule in force")
def get_rule(session: ReadSession, _caller: CurrentOperator) -> RetentionRule:
    return library.get_rule(session)


@router.put("/retention", summary="Set the retention rule")
def set_rule(body: RetentionRule, session: WriteSession, caller: CurrentOperator, now: Now) -> RetentionRule:
    """Nothing is deleted by this call; an `automatic` rule acts within the hour."""
    return library.set_rule(session, caller, body, now)


@router.get("/retention/preview", summary="What a retention rule would delete")
def preview_rule(
    session: ReadSession, _caller: CurrentOperator, now: Now, rule: Annotated[RetentionRule, Query()]
) -> RetentionPreview:
    """Every checkpoint that a finetune saved: whether the rule keeps it, and why."""
    return library.preview_rule(session, rule, now)


@router.post("/retention/apply", summary="Act on a retention rule once", responses=problems(409))
def apply_rule(
    body: ApplyIn, session: WriteSession, state: State, blobs: Blobs, caller: CurrentOperator, now: Now
) -> Applied:
    """Puts into the bin what the rule gives up, of those that were previewed. States that are let go of do not come
    back: those runs cannot be given a larger budget any more."""
    return Applied(
        deleted=library.apply_rule(session, caller, body.rule, body.checkpoint_ids, now),
        n_states=library.drop_states(session, state.database, blobs, caller, body.rule, now) if body.states else 0,
    )
