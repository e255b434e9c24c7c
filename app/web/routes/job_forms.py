"""Forms that queue a job. A refused one comes back with its values kept and each error beside its field."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy.orm import Session

from app.db.queries import pages as queries
from app.domain.enums import JobKind, Priority
from app.domain.errors import InvalidSpecError, NotFoundError
from app.domain.jobs import SUPPORTED_JOB_KINDS
from app.domain.presets import FINETUNE_PRESETS
from app.domain.rewards import PREFERENCE
from app.domain.specs import parse_spec
from app.services import checkpoints, jobs, rewards, submission
from app.services.estimates import estimate
from app.services.foresight import warnings
from app.services.job_checks import check_checkpoints
from app.services.submission import Submission
from app.web.deps import Blobs, CurrentOperator, CurrentSettings, Now, Queue, ReadSession, WriteSession
from app.web.forms import FormData, Option, build_form, read_form, values_of
from app.web.pages import SubmittedForm
from app.web.routes.jobs import KIND_TITLES
from app.web.templating import render

router = APIRouter(prefix="/jobs/new")

_PREFILLED = ("checkpoint_id", "campaign_id", "init_checkpoint_id", "kind")


@router.get("/{kind}")
def empty_form(request: Request, session: ReadSession, _operator: CurrentOperator, kind: JobKind) -> Response:
    """Query parameters choose a preset and fill in values: `?preset=critters-quick&checkpoint_id=...&reward=...`;
    `from` names a past job whose values are shown."""
    query = request.query_params
    if "from" in query:
        past = jobs.get_job(session, _job_id(query["from"]))
        if past.kind is not kind:
            raise NotFoundError(f"The job {past.id} is of the kind {past.kind.value}.")
        shown, name = values_of(past.spec), f"{past.name[:110]} again"
        # without its preset, which would fill in again what was left empty
        return _render_form(request, session, kind, payload=past.spec, values=shown, preset=None, name=name)
    values: dict[str, Any] = {name: query[name] for name in _PREFILLED if name in query}
    values |= {name: query[name] for name in ("n", "steps") if name in query}
    if "checkpoint_id" in query:
        values["checkpoint_ids"] = query.getlist("checkpoint_id")
    if "reward" in query:
        values["reward"] = values["rewards"] = query.getlist("reward")
    if "preset" in query and query["preset"] not in FINETUNE_PRESETS:
        raise NotFoundError(f"There is no preset of this name; known: {', '.join(sorted(FINETUNE_PRESETS))}.")
    preset = query.get("preset")
    payload = _payload_of_query(query)
    return _render_form(request, session, kind, payload=payload, values=values, preset=preset)


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
        job = submission.submit(to, kind, payload, name=name or None, priority=_priority(form))
    except InvalidSpecError as error:
        return _render_form(
            request,
            session,
            kind,
            payload=payload,
            values=values,
            preset=payload.get("preset"),
            name=name,
            priority=_priority(form),
            refused=error,
        )
    return RedirectResponse(f"/jobs/{job.id}", status_code=303)


@router.post("/{kind}/estimate")
def show_estimate(
    request: Request, session: ReadSession, _operator: CurrentOperator, kind: JobKind, form: SubmittedForm
) -> Response:
    """What the values of the form would take: the fragment for a script, the whole form again without one."""
    _require_form(kind)
    payload, values = read_form(kind, form)
    if request.headers.get("x-fragment"):
        return render(request, "jobs/_estimate.html", _outlook(session, kind, payload))
    name, preset, priority = str(form.get("job_name") or "").strip(), payload.get("preset"), _priority(form)
    return _render_form(
        request, session, kind, payload=payload, values=values, preset=preset, name=name, priority=priority
    )


def _outlook(session: Session, kind: JobKind, payload: Mapping[str, Any]) -> dict[str, Any]:
    """Time, memory and warnings of a payload; nothing where it is not a whole spec yet."""
    try:
        spec = parse_spec(kind, payload)
        check_checkpoints(session, spec)
    except InvalidSpecError:
        return {"estimate": None, "warnings": []}
    return {"estimate": estimate(session, spec), "warnings": warnings(session, spec)}


def _payload_of_query(query: Mapping[str, Any]) -> dict[str, Any]:
    """The spec that an untouched form would post, as far as the query names it."""
    payload: dict[str, Any] = {name: query[name] for name in (*_PREFILLED, "preset", "n", "steps") if name in query}
    if "reward" in query:
        name, _, model = query["reward"].partition(":")
        payload["reward"] = {"name": name} | ({"reward_model_id": model} if model else {})
    return payload


def _priority(form: FormData) -> Priority:
    asked = str(form.get("priority") or "")
    return Priority(asked) if asked in set(Priority) else Priority.NORMAL


def _job_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise NotFoundError("The job to duplicate is not an id; open it and use its button.") from error


def _render_form(
    request: Request,
    session: Session,
    kind: JobKind,
    *,
    payload: Mapping[str, Any],
    values: Mapping[str, Any],
    preset: str | None,
    name: str = "",
    priority: Priority = Priority.NORMAL,
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
            "priority": priority,
            **_outlook(session, kind, payload),
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
