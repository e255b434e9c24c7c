"""Several checkpoints side by side on the same seeds. Every choice is in the address, so a view can be handed on."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from app.domain.enums import JobKind
from app.domain.errors import ConflictError
from app.services import checkpoints, comparing, jobs, submission
from app.services.checkpoints import CheckpointView
from app.services.comparing import MOST_COMPARED, MOST_SEEDS, Order
from app.services.submission import Submission
from app.web.deps import Blobs, CurrentOperator, CurrentSettings, Now, Queue, ReadSession, WriteSession
from app.web.pages import SubmittedForm
from app.web.pagination import clean
from app.web.routes.labels import reward_labels
from app.web.templating import render

router = APIRouter()

_ROWS = 12
_CHOICES = 60
_DRAWN_SEED, _DRAWN_N = 20_000, 64


class Mode(StrEnum):
    SIDE = "side"
    WIPE = "wipe"
    BLINK = "blink"
    DIFF = "diff"


class View(BaseModel):
    """What the address says."""

    c: list[UUID] = Field(default=[], max_length=MOST_COMPARED)
    mode: Mode = Mode.SIDE
    sort: Order = Order.SEED
    reward: str | None = Field(default=None, max_length=200)
    epoch: int | None = Field(default=None, ge=0, le=10**9)
    wipe: int = Field(default=50, ge=0, le=100)
    flip: bool = False
    zoom: int = Field(default=1, ge=1, le=8)
    x: int = Field(default=50, ge=0, le=100)
    y: int = Field(default=50, ge=0, le=100)
    page: int = Field(default=1, ge=1, le=MOST_SEEDS)
    q: str | None = Field(default=None, max_length=120)
    fragment: bool = False

    def address(self, **changes: Any) -> str:
        """The address of this view with changes; what is as by default is left out."""
        values = self.model_copy(update=changes).model_dump(mode="json", exclude={"fragment", "q"})
        fields = [("c", id) for id in values.pop("c")]
        for name, value in values.items():
            if value != type(self).model_fields[name].default:
                fields.append((name, str(int(value)) if isinstance(value, bool) else str(value)))
        return f"/compare?{urlencode(fields)}"


@dataclass(frozen=True)
class RunEnd:
    """Where the run of a compared checkpoint ended: the last value of each curve that is overlaid."""

    panel: CheckpointView
    job_id: UUID
    epochs: int
    values: dict[str, float | None]


CURVES = {"reward_mean": "Reward", "kl_nats": "KL", "diversity": "Diversity"}


@router.get("/compare")
def compare(
    request: Request,
    session: ReadSession,
    blobs: Blobs,
    _operator: CurrentOperator,
    view: Annotated[View, Query()],
) -> Response:
    panels = [checkpoints.get_checkpoint(session, id) for id in dict.fromkeys(view.c)]
    found = None
    if len(panels) > 1:
        found = comparing.compare(
            session, blobs, panels, epoch=view.epoch, order=view.sort, reward=clean(view.reward),
            offset=_ROWS * (view.page - 1), limit=_ROWS,
        )  # fmt: skip
    context = {"view": view, "panels": panels, "found": found, "labels": reward_labels(session), "n_rows": _ROWS}
    if view.fragment and found is not None:
        return render(request, "compare/_sheet.html", context)
    listed = checkpoints.list_checkpoints(session, name=clean(view.q), limit=_CHOICES).items
    return render(
        request,
        "compare/index.html",
        context
        | {
            "most": MOST_COMPARED,
            "most_seeds": MOST_SEEDS,
            "choices": [*panels, *(row for row in listed if row.id not in {panel.id for panel in panels})],
            "modes": list(Mode),
            "orders": list(Order),
            "runs": _run_ends(session, panels) if found else [],
            "curves": CURVES,
            "n_to_draw": _DRAWN_N,
        },
    )


@router.post("/compare/draw")
def draw_shared_seeds(
    session: WriteSession,
    blobs: Blobs,
    queue: Queue,
    operator: CurrentOperator,
    settings: CurrentSettings,
    form: SubmittedForm,
    now: Now,
) -> Response:
    """Queue the same seeds with the same steps at every checkpoint that was named."""
    ids = [UUID(str(id)) for id in form.getlist("c")][:MOST_COMPARED]
    panels = checkpoints.existing(session, ids)
    if len(panels) < 2:
        raise ConflictError("Choose two checkpoints or more; the same seeds are then drawn at each.")
    to = Submission(session=session, settings=settings, blobs=blobs, queue=queue, who=operator, now=now)
    steps = max((_steps_of(session, panel) for panel in panels), default=40)
    for panel in panels:
        spec = {"checkpoint_id": panel.id, "n": _DRAWN_N, "seed": _DRAWN_SEED, "steps": steps}
        submission.submit(to, JobKind.SAMPLE, spec, name=f"Seeds to compare: {panel.name}"[:120])
    return RedirectResponse("/jobs", status_code=303)


def _steps_of(session: Session, panel: CheckpointView) -> int:
    return int(jobs.get_job(session, panel.job_id).spec.get("steps", 40)) if panel.job_id else 1


def _run_ends(session: Session, panels: Sequence[CheckpointView]) -> list[RunEnd]:
    ends: list[RunEnd] = []
    for panel in panels:
        if panel.job_id is None or panel.job_id in {end.job_id for end in ends}:
            continue
        columns = jobs.metrics(session, panel.job_id)
        if not columns.get("epoch"):
            continue
        values = {name: _last_number(columns.get(name, [])) for name in CURVES}
        ends.append(RunEnd(panel, panel.job_id, len(columns["epoch"]), values))
    return ends


def _last_number(values: Sequence[Any]) -> float | None:
    return next((value for value in reversed(values) if isinstance(value, int | float)), None)
