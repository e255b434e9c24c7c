"""The gallery of samples, and one sample with what became of its noise."""

from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, BeforeValidator, Field, ValidationError
from sqlalchemy.orm import Session

from app.db.queries import tags as tag_queries
from app.db.queries.gallery import SampleFilter
from app.domain.errors import InvalidSpecError
from app.domain.marks import Marks, tags_of
from app.services import checkpoints, gallery
from app.services.gallery import SampleView
from app.services.rewards import list_rewards
from app.web.deps import CurrentOperator, Now, ReadSession, WriteSession
from app.web.pages import SubmittedForm
from app.web.pagination import clean, decode_cursor, decode_value_cursor, next_cursor_of
from app.web.routes.labels import reward_labels
from app.web.templating import render

router = APIRouter(prefix="/samples")

_A_PAGE = 48
_CHOICES = 200


def _or_none(value: Any) -> Any:
    return None if value == "" else value


class View(BaseModel):
    """What the address says; empty fields of the form count as left out."""

    checkpoint: Annotated[UUID | None, BeforeValidator(_or_none)] = None
    seed: Annotated[int | None, BeforeValidator(_or_none), Field(ge=0, le=2**31 - 1)] = None
    tag: str = Field(default="", max_length=40)
    starred: bool = False
    reward: str = Field(default="", max_length=200)
    lowest: bool = False
    cursor: str | None = Field(default=None, max_length=200)
    fragment: bool = False

    def address(self, **changes: Any) -> str:
        values = self.model_copy(update=changes).model_dump(mode="json", exclude={"fragment"})
        given = {name: value for name, value in values.items() if value not in (None, "", False)}
        return f"/samples?{urlencode(given)}" if given else "/samples"


@dataclass(frozen=True)
class _Found:
    items: list[SampleView]
    next_cursor: str | None


@router.get("")
def browse(
    request: Request, session: ReadSession, _operator: CurrentOperator, view: Annotated[View, Query()]
) -> Response:
    found = _find(session, view)
    shown = {"view": view, "samples": found.items, "next_cursor": found.next_cursor, "labels": reward_labels(session)}
    if view.fragment:
        return render(request, "samples/_page.html", shown)
    chosen = checkpoints.existing(session, [view.checkpoint]) if view.checkpoint else []
    listed = checkpoints.list_checkpoints(session, limit=_CHOICES).items
    return render(
        request,
        "samples/index.html",
        shown
        | {
            "checkpoints": [*chosen, *(row for row in listed if row.id != view.checkpoint)],
            "chosen": chosen[0] if chosen else None,
            "tags": tag_queries.sample_tags(session),
            "rewards": [reward.name for reward in list_rewards(session)],
        },
    )


@router.get("/{sample_id}")
def show(request: Request, session: ReadSession, _operator: CurrentOperator, sample_id: UUID) -> Response:
    sample = gallery.get_sample(session, sample_id)
    return render(
        request,
        "samples/show.html",
        {
            "sample": sample,
            "checkpoint": checkpoints.get_checkpoint(session, sample.checkpoint_id),
            "transitions": gallery.transitions(session, sample_id),
            "labels": reward_labels(session),
            "known_tags": tag_queries.sample_tags(session),
        },
    )


@router.post("/{sample_id}/marks")
def mark(session: WriteSession, _operator: CurrentOperator, sample_id: UUID, form: SubmittedForm, now: Now) -> Response:
    gallery.mark_sample(session, sample_id, marks_of(form), now)
    return RedirectResponse(f"/samples/{sample_id}#marks", status_code=303)


def marks_of(form: Any) -> Marks:
    """Marks from a page's form: all three of them, or a star alone (`only=star`).

    Raises:
        InvalidSpecError: a tag or the note cannot be kept; says why.
    """
    starred = form.get("starred") is not None
    if form.get("only") == "star":
        return Marks(starred=starred)
    try:
        return Marks(starred=starred, note=str(form.get("note") or ""), tags=tags_of(str(form.get("tags") or "")))
    except ValidationError as error:
        errors = [{"field": str(item["loc"][0]), "message": item["msg"]} for item in error.errors(include_url=False)]
        text = "; ".join(f"{item['field']}: {item['message']}" for item in errors)
        raise InvalidSpecError(
            f"These marks cannot be kept: {text}. Tags have at most 40 characters.", errors
        ) from error


def _find(session: Session, view: View) -> _Found:
    tag, reward = clean(view.tag), clean(view.reward)
    if reward is None:
        found = gallery.list_samples(
            session, checkpoint_id=view.checkpoint, seed=view.seed, tag=tag, starred=view.starred,
            after=decode_cursor(view.cursor), limit=_A_PAGE,
        )  # fmt: skip
        return _Found(found.items, next_cursor_of(found))
    wanted = SampleFilter(checkpoint_id=view.checkpoint, seed=view.seed, tag=tag, starred=view.starred)
    after = decode_value_cursor(view.cursor)
    ranked = gallery.list_by_reward(session, wanted, reward, highest=not view.lowest, after=after, limit=_A_PAGE)
    return _Found(ranked.items, next_cursor_of(ranked))
