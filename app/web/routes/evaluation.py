"""Table 5.1 of the thesis as a page, and a run's development set and learning curve."""

from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field

from app.domain.enums import JobKind
from app.domain.rewards import PREFERENCE
from app.services import checkpoints, dev_sets, evaluation, jobs, rewards, submission
from app.services.dev_sets import DevOrder
from app.services.evaluation import MOST_CHECKPOINTS
from app.services.submission import Submission
from app.web.charts import distribution_chart, line_chart, sparkline
from app.web.deps import Blobs, CurrentOperator, CurrentSettings, Now, Queue, ReadSession, WriteSession
from app.web.pages import SubmittedForm
from app.web.pagination import clean
from app.web.templating import render

router = APIRouter()

_DEV_ROWS = 16
_CHOICES = 60
_SEEDS = 1000


class TableView(BaseModel):
    """What the address of the table says."""

    c: list[UUID] = Field(default=[], max_length=MOST_CHECKPOINTS)
    reward: list[str] = Field(default=[], max_length=32)

    def export(self, format: str) -> str:
        fields = [("checkpoint_id", id) for id in self.c] + [("reward", name) for name in self.reward]
        return f"/api/v1/evaluations?{urlencode([*fields, ('format', format)])}"


class DevView(BaseModel):
    """What the address of a development set says."""

    epoch: int | None = Field(default=None, ge=0, le=10**9)
    reward: str | None = Field(default=None, max_length=200)
    sort: DevOrder = DevOrder.SEED
    down: bool = False
    page: int = Field(default=1, ge=1, le=1000)

    def address(self, **changes: object) -> str:
        """The address of this view with changes; what is as by default is left out."""
        values = self.model_copy(update=changes).model_dump(mode="json", exclude_defaults=True)
        return "?" + urlencode(
            {name: int(value) if isinstance(value, bool) else value for name, value in values.items()}
        )

    def sorted_by(self, order: DevOrder) -> str:
        """The address that sorts by this column, the other way round where it does already."""
        return self.address(
            sort=order, down=not self.down if order is self.sort else order is not DevOrder.SEED, page=1
        )


@router.get("/evaluation")
def table(
    request: Request, session: ReadSession, _operator: CurrentOperator, view: Annotated[TableView, Query()]
) -> Response:
    newest = evaluation.candidates(session)
    chosen = checkpoints.existing(session, list(dict.fromkeys(view.c))) if view.c else newest
    shown = evaluation.evaluate(session, [row.id for row in chosen], [name for name in view.reward if name])
    listed = checkpoints.list_checkpoints(session, limit=_CHOICES).items
    ids = {row.id for row in chosen}
    return render(
        request,
        "evaluation/index.html",
        {
            "view": view,
            "table": shown,
            "chosen": chosen,
            "choices": [*chosen, *(row for row in listed if row.parent_id and row.id not in ids)],
            "most": MOST_CHECKPOINTS,
            "runnable": [row for row in rewards.list_rewards(session) if row.can_run and row.name != PREFERENCE],
            "n_seeds": _SEEDS,
        },
    )


@router.post("/evaluation/run")
def run(
    session: WriteSession,
    blobs: Blobs,
    queue: Queue,
    operator: CurrentOperator,
    settings: CurrentSettings,
    form: SubmittedForm,
    now: Now,
) -> Response:
    """Queue an evaluation of the chosen checkpoints and their bases on fixed seeds."""
    ids = [UUID(str(id)) for id in form.getlist("c")][:MOST_CHECKPOINTS]
    rows = [checkpoints.require_checkpoint(session, id) for id in ids]
    bases = [evaluation.base_of(session, row).id for row in rows]
    spec = {
        "checkpoint_ids": list(dict.fromkeys([*bases, *ids])),
        "rewards": [{"name": str(name)} for name in form.getlist("reward")],
        "n": form.get("n", _SEEDS),
    }
    to = Submission(session=session, settings=settings, blobs=blobs, queue=queue, who=operator, now=now)
    job = submission.submit(to, JobKind.EVALUATE, spec)
    return RedirectResponse(f"/jobs/{job.id}", status_code=303)


@router.get("/jobs/{job_id}/dev-set")
def dev_set(
    request: Request, session: ReadSession, _operator: CurrentOperator, job_id: UUID, view: Annotated[DevView, Query()]
) -> Response:
    found = dev_sets.dev_set(
        session, job_id, epoch=view.epoch, reward=clean(view.reward), sort=view.sort, descending=view.down,
        offset=_DEV_ROWS * (view.page - 1), limit=_DEV_ROWS,
    )  # fmt: skip
    job = jobs.get_job(session, job_id)
    along = [value for row in found.rows for value in row.trajectory]
    paths = {
        row.seed: sparkline(row.trajectory, low=min(along), high=max(along)) for row in found.rows if row.trajectory
    }
    context = {"job": job, "view": view, "found": found, "orders": DevOrder, "n_rows": _DEV_ROWS, "paths": paths}
    return render(request, "evaluation/dev_set.html", context)


@router.get("/jobs/{job_id}/learning")
def learning(request: Request, session: ReadSession, _operator: CurrentOperator, job_id: UUID) -> Response:
    job = jobs.get_job(session, job_id)
    columns = jobs.metrics(session, job_id)
    context = {
        "job": job,
        "distribution": distribution_chart(columns),
        "lr": line_chart(columns, "lr"),
        "reward": line_chart(columns, "reward_mean"),
    }
    return render(request, "evaluation/learning.html", context)
