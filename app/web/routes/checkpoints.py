"""Checkpoints: the library, one checkpoint and how its samples came to be, comparisons of several."""

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, BeforeValidator, Field
from sqlalchemy.orm import Session

from app.db.queries import labeling as labeling_queries
from app.db.queries import pages as queries
from app.db.queries import tags as tag_queries
from app.domain.bundled import BUNDLED
from app.domain.enums import CheckpointKind, JobKind, Strategy
from app.domain.errors import ConflictError, TastemakerError
from app.services import campaigns, checkpoints, gallery, jobs, lineage, submission
from app.services.checkpoints import CheckpointView, StoredSource
from app.services.submission import Submission
from app.web.deps import (
    Blobs,
    CurrentOperator,
    CurrentSettings,
    Now,
    Queue,
    ReadSession,
    WriteSession,
)
from app.web.pages import SubmittedForm
from app.web.pagination import After, clean, decode_cursor, encode_cursor
from app.web.routes.desk import first_samples
from app.web.routes.grids import grid_of
from app.web.routes.labels import reward_labels
from app.web.routes.samples import marks_of
from app.web.templating import render

router = APIRouter()

_SHARED_SEED, _SHARED_N = 20_000, 128
_BLIND_BUDGET = 200
_QUESTION = "Which one do you like better?"


class View(BaseModel):
    """What the address says; empty fields of the form count as left out."""

    name: str = Field(default="", max_length=120)
    kind: Annotated[CheckpointKind | None, BeforeValidator(lambda value: value or None)] = None
    tag: str = Field(default="", max_length=40)
    starred: bool = False
    cursor: str | None = Field(default=None, max_length=200)

    @property
    def narrows(self) -> bool:
        return bool(self.name or self.kind or self.tag or self.starred)

    def address(self, **changes: Any) -> str:
        values = self.model_copy(update=changes).model_dump(mode="json")
        given = {name: value for name, value in values.items() if value not in (None, "", False)}
        return f"/checkpoints?{urlencode(given)}" if given else "/checkpoints"


@router.get("/checkpoints")
def list_checkpoints(
    request: Request, session: ReadSession, _operator: CurrentOperator, view: Annotated[View, Query()]
) -> Response:
    return _library(request, session, view)


def _stored(
    settings: CurrentSettings, blobs: Blobs, _operator: CurrentOperator, form: SubmittedForm
) -> StoredSource | TastemakerError:
    """The files of the submitted source, stored before any transaction begins, since that may take long."""
    name, source = (str(form.get(field) or "").strip() for field in ("name", "source"))
    try:
        return checkpoints.store_source(settings, blobs, name=name or source, source=source)
    except TastemakerError as refused:
        return refused


@router.post("/checkpoints")
def register(
    request: Request,
    stored: Annotated[StoredSource | TastemakerError, Depends(_stored)],
    session: WriteSession,
    operator: CurrentOperator,
    form: SubmittedForm,
    now: Now,
) -> Response:
    try:
        if isinstance(stored, TastemakerError):
            raise stored
        checkpoint = checkpoints.register_base(session, operator, stored, now)
    except TastemakerError as refused:
        values = {field: str(form.get(field) or "") for field in ("name", "source")}
        return _library(request, session, View(), refused=refused, values=values)
    return RedirectResponse(f"/checkpoints/{checkpoint.id}", status_code=303)


@router.get("/checkpoints/{checkpoint_id}")
def show(
    request: Request,
    session: ReadSession,
    _operator: CurrentOperator,
    settings: CurrentSettings,
    checkpoint_id: UUID,
    after: After,
) -> Response:
    row = checkpoints.require_checkpoint(session, checkpoint_id)
    checkpoint = checkpoints.get_checkpoint(session, checkpoint_id)
    line = checkpoints.views_of(session, lineage.line_of(session, row))
    samples = gallery.list_samples(session, checkpoint_id=checkpoint_id, after=after, limit=48)
    return render(
        request,
        "checkpoints/show.html",
        {
            "checkpoint": checkpoint,
            "line": line,
            "lineage": lineage.get_lineage(session, checkpoint_id),
            "grid": grid_of(session, line) if len(line) > 1 else None,
            "curve_job": next((step.job_id for step in reversed(line) if step.job_id is not None), None),
            "samples": samples.items,
            "next_cursor": encode_cursor(*samples.end) if samples.end else None,
            "labels": reward_labels(session),
            "campaigns": queries.campaigns_of_checkpoint(session, checkpoint_id),
            "n_shared": _n_shared(session, checkpoint),
            "n_to_draw": _SHARED_N,
            "known_tags": tag_queries.checkpoint_tags(session),
            "can_push": settings.hub_token is not None,
        },
    )


@router.post("/checkpoints/{checkpoint_id}/marks")
def mark(
    session: WriteSession, operator: CurrentOperator, checkpoint_id: UUID, form: SubmittedForm, now: Now
) -> Response:
    """From the checkpoint's own page, or a star from the list (`back` says where to)."""
    checkpoints.mark_checkpoint(session, operator, checkpoint_id, marks_of(form), now)
    return RedirectResponse(_own_page(str(form.get("back") or "")) or f"/checkpoints/{checkpoint_id}", status_code=303)


@router.post("/checkpoints/{checkpoint_id}/blind-test")
def blind_test(session: WriteSession, operator: CurrentOperator, checkpoint_id: UUID, now: Now) -> Response:
    """A tournament against the parent on the seeds that both have drawn, asking what the reward was taught by."""
    checkpoint = checkpoints.get_checkpoint(session, checkpoint_id)
    parent = _parent_of(session, checkpoint)
    taught = [model.campaign.question for model in lineage.get_lineage(session, checkpoint_id).reward_models]
    campaign = campaigns.create_campaign(
        session,
        name=f"Blind: {checkpoint.name}"[:120],
        question=taught[0] if taught else _QUESTION,
        checkpoint_ids=[parent.id, checkpoint.id],
        strategy=Strategy.TOURNAMENT,
        budget=min(_BLIND_BUDGET, _n_shared(session, checkpoint)) or None,
        open=True,
        creator=operator,
        now=now,
    )
    return RedirectResponse(f"/rate/{campaign.id}", status_code=303)


@router.post("/checkpoints/{checkpoint_id}/draw-shared")
def draw_shared_seeds(
    session: WriteSession,
    blobs: Blobs,
    queue: Queue,
    operator: CurrentOperator,
    settings: CurrentSettings,
    checkpoint_id: UUID,
    now: Now,
) -> Response:
    """Queue the same fresh seeds at the checkpoint and at its parent, so that a blind test has pairs enough."""
    checkpoint = checkpoints.get_checkpoint(session, checkpoint_id)
    parent = _parent_of(session, checkpoint)
    steps = jobs.get_job(session, checkpoint.job_id).spec.get("steps", 40) if checkpoint.job_id else 40
    to = Submission(session=session, settings=settings, blobs=blobs, queue=queue, who=operator, now=now)
    for source in (parent, checkpoint):
        spec = {"checkpoint_id": source.id, "n": _SHARED_N, "seed": _SHARED_SEED, "steps": steps}
        submission.submit(to, JobKind.SAMPLE, spec, name=f"Blind test seeds: {source.name}")
    return RedirectResponse("/jobs", status_code=303)


def _library(
    request: Request,
    session: Session,
    view: View,
    *,
    refused: TastemakerError | None = None,
    values: Mapping[str, str] | None = None,
) -> Response:
    found = checkpoints.list_checkpoints(
        session, name=clean(view.name), kind=view.kind, tag=clean(view.tag), starred=view.starred,
        after=decode_cursor(view.cursor), limit=24,
    )  # fmt: skip
    context = {
        "view": view,
        "tags": tag_queries.checkpoint_tags(session),
        "checkpoints": found.items,
        "samples": first_samples(session, [row.id for row in found.items]),
        "next_cursor": encode_cursor(*found.end) if found.end else None,
        "bundled": sorted(BUNDLED),
        "refused": refused.detail if refused else None,
        "values": values or {"name": "", "source": ""},
    }
    return render(request, "checkpoints/index.html", context, status=refused.status if refused else 200)


def _own_page(address: str) -> str | None:
    """An address within the list of checkpoints; anything else leads nowhere."""
    return address if address == "/checkpoints" or address.startswith("/checkpoints?") else None


def _parent_of(session: Session, checkpoint: CheckpointView) -> CheckpointView:
    if checkpoint.parent_id is None:
        raise ConflictError(f"{checkpoint.name} is a base: it has no parent to be compared with.")
    return checkpoints.get_checkpoint(session, checkpoint.parent_id)


def _n_shared(session: Session, checkpoint: CheckpointView) -> int:
    """On how many seeds the checkpoint and its parent have both drawn."""
    if checkpoint.parent_id is None:
        return 0
    return labeling_queries.shared_noise_counts(session, checkpoint.parent_id, [checkpoint.id]).get(checkpoint.id, 0)
