"""Forms that queue a job. A refused one comes back with its values kept and each error beside its field."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy.orm import Session

from app.db.queries import pages as queries
from app.domain.enums import JobKind
from app.domain.errors import InvalidSpecError, NotFoundError
from app.domain.jobs import SUPPORTED_JOB_KINDS
from app.domain.presets import FINETUNE_PRESETS
from app.domain.rewards import PREFERENCE
from app.services import checkpoints, jobs, rewards
from app.services.jobs import Submission
from app.web.deps import Blobs, CurrentOperator, CurrentSettings, Now, Queue, ReadSession, WriteSession
from app.web.forms import Option, build_form, read_form
from app.web.pages import SubmittedForm
from app.web.routes.jobs import KIND_TITLES
from app.web.templating import render

router = APIRouter(prefix="/jobs/new")

_PREFILLED = ("checkpoint_id", "campaign_id", "init_checkpoint_id", "kind")


@router.get("/{kind}")
def empty_form(request: Request, session: ReadSession, _operator: CurrentOperator, kind: JobKind) -> Response:
    """Query parameters choose a preset and fill in ids: `?preset=critters-quick&checkpoint_id=...&reward=...`."""
    query = request.query_params
    values: dict[str, Any] = {name: query[name] for name in _PREFILLED if name in query}
    if "checkpoint_id" in query:
        values["checkpoint_ids"] = query.getlist("checkpoint_id")
    if "reward" in query:
        values["reward"] = values["rewards"] = query.getlist("reward")
    if "preset" in query and query["preset"] not in FINETUNE_PRESETS:
        raise NotFoundError(f"There is no preset of this name; known: {', '.join(sorted(FINETUNE_PRESETS))}.")
    return _render_form(request, session, kind, values=values, preset=query.get("preset"))


@router.post("/{kind}")
def submit(
    request: Request,
    session: WriteSession,
    blobs: Blobs,
    queue: Queue,
    operator: CurrentOperator,
    settings: CurrentSettings,
    kind: JobKind,
    form: SubmittedForm,
    now: Now,
) -> Response:
    _require_form(kind)
    payload, values = read_form(kind, form)
    name = str(form.get("job_name") or "").strip()
    try:
        to = Submission(session=session, settings=settings, blobs=blobs, queue=queue, who=operator, now=now)
        job = jobs.submit(to, kind, payload, name=name or None)
    except InvalidSpecError as error:
        return _render_form(
            request, session, kind, values=values, preset=payload.get("preset"), name=name, refused=error
        )
    return RedirectResponse(f"/jobs/{job.id}", status_code=303)


def _render_form(
    request: Request,
    session: Session,
    kind: JobKind,
    *,
    values: Mapping[str, Any],
    preset: str | None,
    name: str = "",
    refused: InvalidSpecError | None = None,
) -> Response:
    _require_form(kind)
    errors = refused.errors if refused else []
    form = build_form(kind, options=_options(session), values=values, preset=preset, errors=errors)
    title, lede = KIND_TITLES[kind]
    return render(
        request,
        "jobs/new.html",
        {
            "form": form,
            "title": title,
            "lede": lede,
            "job_name": name,
            "refused": _summary(refused) if refused else None,
            "advanced_open": any(field.has_errors for field in form.advanced),
            "links": {key: request.query_params[key] for key in (*_PREFILLED, "reward") if key in request.query_params},
        },
        status=422 if refused else 200,
    )


def _summary(refused: InvalidSpecError) -> str:
    if not refused.errors:
        return refused.detail
    n = len(refused.errors)
    return "One setting needs a change." if n == 1 else f"{n} settings need a change."


def _require_form(kind: JobKind) -> None:
    if kind not in SUPPORTED_JOB_KINDS:
        raise NotFoundError(f"Jobs of the kind {kind.value} cannot be queued yet.")


def _options(session: Session) -> dict[str, Sequence[Option]]:
    """What ids can be chosen, by the name of the field."""
    listed = [
        Option(str(row.id), f"{row.name} ({row.n_samples} samples)")
        for row in checkpoints.list_checkpoints(session, limit=200).items
    ]
    campaigns = queries.all_campaigns(session)
    votes = queries.votes_in(session, [row.id for row in campaigns])
    return {
        "checkpoint_id": listed,
        "checkpoint_ids": listed,
        "init_checkpoint_id": listed,
        "campaign_id": [Option(str(row.id), f"{row.name} ({votes.get(row.id, 0)} votes)") for row in campaigns],
        "rewards": _reward_options(session),
    }


def _reward_options(session: Session) -> list[Option]:
    learned = [
        Option(f"{PREFERENCE}:{model.id}", _model_label(model.name, model.id, model.accuracy))
        for model in queries.reward_models(session)
    ]
    computed = [
        Option(reward.name, f"{reward.title}: {reward.direction}", reward.why_not if reward.can_run is False else None)
        for reward in rewards.list_rewards(session)
        if reward.name != PREFERENCE
    ]
    return [*learned, *computed]


def _model_label(name: str, id: UUID, accuracy: float | None) -> str:
    measured = f", held-out accuracy {accuracy:.0%}" if accuracy is not None else ""
    return f"Learned: {name} ({str(id)[:8]}{measured})"
