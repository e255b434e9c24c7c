"""Disk use, the bin, and the retention rule with a preview of what it would do."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BeforeValidator, ValidationError
from sqlalchemy.orm import Session
from starlette.datastructures import FormData

from app.domain.errors import InvalidSpecError, TastemakerError
from app.domain.retention import RetentionRule
from app.services import bin, checkpoints, library
from app.web.deps import Blobs, CurrentOperator, CurrentSettings, Now, ReadSession, State, WriteSession
from app.web.pages import SubmittedForm
from app.web.pagination import After, next_cursor_of
from app.web.templating import render

router = APIRouter()

_A_PAGE = 50
_FIELDS = ("keep_every", "keep_last", "min_age_hours", "keep_states_days")

Number = Annotated[int | None, BeforeValidator(lambda value: None if value == "" else value)]


@router.get("/storage")
def show(
    request: Request,
    session: ReadSession,
    _operator: CurrentOperator,
    settings: CurrentSettings,
    now: Now,
    after: After,
    keep_every: Annotated[Number, Query(ge=1, le=100_000)] = None,
    keep_last: Annotated[int | None, Query(ge=1, le=100_000)] = None,
    min_age_hours: Annotated[int | None, Query(ge=0, le=24 * 365)] = None,
    keep_states_days: Annotated[Number, Query(ge=0, le=36_500)] = None,
    preview: bool = False,
) -> Response:
    """With `preview`, what the rule in the address would delete; without, the rule in force."""
    in_force = library.get_rule(session)
    rule = in_force
    if preview:
        given = {"keep_last": keep_last, "min_age_hours": min_age_hours}
        rule = RetentionRule(
            keep_every=keep_every,
            keep_states_days=keep_states_days,
            **{name: n for name, n in given.items() if n is not None},
        )
    found = checkpoints.list_checkpoints(session, deleted=True, after=after, limit=_A_PAGE)
    return render(
        request,
        "storage/index.html",
        {
            "use": library.storage_use(session, settings),
            "rule": rule,
            "in_force": in_force,
            "preview": library.preview_rule(session, rule, now) if preview else None,
            "most": library.MOST_AT_ONCE,
            "deleted": found.items,
            "next_cursor": next_cursor_of(found),
            "undo_hours": settings.undo_delete_hours,
        },
    )


@router.post("/storage/retention")
def act(
    session: WriteSession,
    operator: CurrentOperator,
    state: State,
    blobs: Blobs,
    form: SubmittedForm,
    now: Now,
) -> Response:
    """`action` keeps the rule for good (`save`), or acts on what was previewed: the checkpoints (`apply`), the states
    (`drop_states`)."""
    fields = {name: str(form.get(name) or "") for name in _FIELDS}
    try:
        rule = RetentionRule.model_validate(
            {name: text for name, text in fields.items() if text} | {"automatic": form.get("automatic") is not None}
        )
    except ValidationError as error:
        message = "; ".join(f"{item['loc'][0]}: {item['msg']}" for item in error.errors(include_url=False))
        raise InvalidSpecError(f"This rule cannot be kept: {message}.") from error
    if form.get("action") == "apply":
        library.apply_rule(session, operator, rule, _chosen(form), now)
        return RedirectResponse("/storage#bin", status_code=303)
    if form.get("action") == "drop_states":
        library.drop_states(session, state.database, blobs, operator, rule, now)
        return RedirectResponse("/storage#retention", status_code=303)
    library.set_rule(session, operator, rule, now)
    return RedirectResponse("/storage#retention", status_code=303)


@router.get("/checkpoints/{checkpoint_id}/delete")
def preview_deletion(
    request: Request, session: ReadSession, _operator: CurrentOperator, settings: CurrentSettings, checkpoint_id: UUID
) -> Response:
    return _deletion(request, session, settings, checkpoint_id)


@router.post("/checkpoints/{checkpoint_id}/delete")
def delete(
    request: Request,
    session: WriteSession,
    operator: CurrentOperator,
    settings: CurrentSettings,
    checkpoint_id: UUID,
    now: Now,
) -> Response:
    try:
        bin.delete(session, operator, checkpoint_id, now)
    except TastemakerError as refused:
        if refused.status == 404:
            raise
        return _deletion(request, session, settings, checkpoint_id, refused=refused)
    return RedirectResponse(f"/storage?deleted={checkpoint_id}#bin", status_code=303)


@router.post("/checkpoints/{checkpoint_id}/restore")
def restore(session: WriteSession, operator: CurrentOperator, checkpoint_id: UUID, now: Now) -> Response:
    bin.restore(session, operator, checkpoint_id, now)
    return RedirectResponse(f"/checkpoints/{checkpoint_id}", status_code=303)


def _chosen(form: FormData) -> list[UUID]:
    try:
        return [UUID(str(id)) for id in form.getlist("checkpoint_id")]
    except ValueError as error:
        message = "What was previewed is not a list of checkpoints; open the preview again."
        raise InvalidSpecError(message, [{"field": "checkpoint_id", "message": message}]) from error


def _deletion(
    request: Request,
    session: Session,
    settings: CurrentSettings,
    checkpoint_id: UUID,
    *,
    refused: TastemakerError | None = None,
) -> Response:
    context = {
        "preview": bin.preview(session, settings, checkpoint_id),
        "checkpoint": checkpoints.get_checkpoint(session, checkpoint_id),
        "refused": refused.detail if refused else None,
    }
    return render(request, "checkpoints/delete.html", context, status=refused.status if refused else 200)
