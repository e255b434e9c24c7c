"""The playgrounds: an uploaded image inverted and drawn again, and samples guided beside unguided ones."""

from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from app.db.queries import analyses as queries
from app.db.queries import pages as page_queries
from app.db.queries.samples import Recipe
from app.domain.enums import AnalysisKind, JobKind
from app.domain.errors import InvalidSpecError, NotFoundError, TastemakerError
from app.domain.guidance import DIFFERENTIABLE_REWARDS, TEXT_ENCODERS, why_no_prompt
from app.domain.rewards import PREFERENCE
from app.domain.specs import SampleSpec
from app.services import analyses, checkpoints, gallery, jobs, over_optimisation, submission, uploads
from app.services.job_views import view_job
from app.services.rewards import list_rewards
from app.services.submission import Submission
from app.services.uploads import StoredImage
from app.web.deps import Blobs, CurrentOperator, CurrentSettings, Now, Queue, ReadSession, WriteSession
from app.web.pages import SubmittedForm
from app.web.templating import render

router = APIRouter(prefix="/analysis")

_MOST_GUIDED = 64

SCALES: dict[str, str] = {
    "brightness": "5 to 20",
    "colourfulness": "0.02 to 0.1",
    "sharpness": "300 to 3,000",
    PREFERENCE: "0.1 to 1",
}
"""Strengths that were seen to move the bundled model's samples and leave them critters."""


@router.get("/inversion")
def inversion_playground(request: Request, session: ReadSession, _operator: CurrentOperator) -> Response:
    return _inversion_form(request, session, values=dict(request.query_params))


async def _upload_form(request: Request) -> FormData:
    return await request.form(max_files=1, max_fields=20, max_part_size=10_000)


async def _stored_upload(
    form: Annotated[FormData, Depends(_upload_form)],
    _operator: CurrentOperator,
    settings: CurrentSettings,
    blobs: Blobs,
) -> StoredImage | TastemakerError | None:
    """The chosen file, stored before any transaction begins; None where an earlier upload is used again."""
    file = form.get("file")
    if not isinstance(file, UploadFile) or not file.filename:
        return None
    try:
        data = await file.read(settings.max_upload_bytes + 1)
        return await run_in_threadpool(uploads.store_image, blobs, data, max_bytes=settings.max_upload_bytes)
    except TastemakerError as refused:
        return refused


@router.post("/inversion")
def invert(
    request: Request,
    stored: Annotated[StoredImage | TastemakerError | None, Depends(_stored_upload)],
    form: Annotated[FormData, Depends(_upload_form)],
    session: WriteSession,
    settings: CurrentSettings,
    blobs: Blobs,
    queue: Queue,
    operator: CurrentOperator,
    now: Now,
) -> Response:
    values = {name: str(form.get(name) or "").strip() for name in ("checkpoint_id", "steps", "skips", "image_id")}
    try:
        if isinstance(stored, TastemakerError):
            raise stored
        image_id = values["image_id"] if stored is None else uploads.add_upload(session, operator, stored, now).id
        if not image_id:
            message = "Choose a PNG, JPEG or WebP image, or one that was uploaded before."
            raise InvalidSpecError(message, [{"field": "file", "message": message}])
        spec: dict[str, Any] = {
            "kind": AnalysisKind.INVERSION,
            "image_id": str(image_id),
            "checkpoint_ids": [values["checkpoint_id"]],
            "skips": [skip.strip() for skip in values["skips"].split(",") if skip.strip()],
        }
        if values["steps"]:
            spec["steps"] = values["steps"]
        to = Submission(session=session, settings=settings, blobs=blobs, queue=queue, who=operator, now=now)
        job = submission.submit(to, JobKind.ANALYZE, spec)
    except TastemakerError as refused:
        return _inversion_form(request, session, values=values, refused=refused)
    return RedirectResponse(f"/analysis/{job.id}", status_code=303)


@router.get("/guidance")
def guidance_playground(
    request: Request, session: ReadSession, settings: CurrentSettings, _operator: CurrentOperator
) -> Response:
    return _guidance_form(request, session, settings.encoder, values=dict(request.query_params))


@router.post("/guidance")
def guide(
    request: Request,
    session: WriteSession,
    settings: CurrentSettings,
    blobs: Blobs,
    queue: Queue,
    operator: CurrentOperator,
    form: SubmittedForm,
    now: Now,
) -> Response:
    """Two jobs: the unguided samples of the seeds (those that are missing), then the guided ones."""
    names = ("checkpoint_id", "target", "prompt", "reward", "encoder", "scale", "n", "seed", "steps")
    values = {name: str(form.get(name) or "").strip() for name in names}
    plain = {name: values[name] for name in ("checkpoint_id", "n", "seed", "steps") if values[name]}
    guidance: dict[str, Any] = {"scale": values["scale"]}
    if values["target"] == "prompt":
        guidance |= {"prompt": values["prompt"]} | ({"encoder": values["encoder"]} if values["encoder"] else {})
    else:
        name, _, model = values["reward"].partition(":")
        guidance |= {"reward": name} | ({"reward_model_id": model} if model else {})
    to = Submission(session=session, settings=settings, blobs=blobs, queue=queue, who=operator, now=now)
    try:
        if values["n"].isdigit() and int(values["n"]) > _MOST_GUIDED:
            message = f"At most {_MOST_GUIDED} are shown side by side; more can be drawn by a sampling job."
            raise InvalidSpecError(message, [{"field": "spec.n", "message": message}])
        guided_spec = {**plain, "guidance": guidance}
        submission.check(to, JobKind.SAMPLE, guided_spec)
        submission.submit(to, JobKind.SAMPLE, plain)
        guided = submission.submit(to, JobKind.SAMPLE, guided_spec)
    except InvalidSpecError as refused:
        return _guidance_form(request, session, settings.encoder, values=values, refused=refused)
    return RedirectResponse(f"/analysis/guidance/{guided.id}", status_code=303)


@router.get("/guidance/{job_id}")
def show_guided(request: Request, session: ReadSession, _operator: CurrentOperator, job_id: UUID) -> Response:
    job = jobs.get_job(session, job_id)
    if job.kind is not JobKind.SAMPLE or not job.spec.get("guidance"):
        raise NotFoundError(f"The job {job_id} draws no guided samples.")
    spec = SampleSpec.model_validate(job.spec)
    assert spec.guidance is not None
    seeds = range(spec.seed, spec.seed + min(spec.n, _MOST_GUIDED))
    columns = []
    for recipe in (None, spec.guidance.recipe):
        key = Recipe(spec.checkpoint_id, spec.steps, spec.eta, recipe).guidance_key
        rows = queries.samples_of_recipe(
            session, spec.checkpoint_id, steps=spec.steps, eta=spec.eta, guidance_key=key, seeds=seeds
        )
        columns.append({view.seed: view for view in gallery.views_of(session, list(rows.values()))})
    return render(
        request,
        "analysis/guided.html",
        {
            "job": job,
            "last_seq": page_queries.last_event_seq(session, job_id),
            "checkpoint": checkpoints.get_checkpoint(session, spec.checkpoint_id),
            "spec": spec,
            "seeds": list(seeds),
            "columns": columns,
            "labels": over_optimisation.reward_labels(session),
            "reward": job.result.get("reward"),
        },
    )


def _inversion_form(
    request: Request, session: Session, *, values: Mapping[str, str], refused: TastemakerError | None = None
) -> Response:
    found = analyses.list_analyses(session, kind=AnalysisKind.INVERSION, limit=8)
    context = {
        "values": values,
        "refused": refused.detail if refused else None,
        "errors": _errors(refused),
        "checkpoints": checkpoints.list_checkpoints(session, limit=200).items,
        "uploads": uploads.newest_uploads(session),
        "analyses": found.items,
        "max_pixels": uploads.MAX_PIXELS // 10**6,
        "max_megabytes": request.app.state.tastemaker.settings.max_upload_bytes / 1e6,
    }
    return render(request, "analysis/inversion.html", context, status=refused.status if refused else 200)


def _guidance_form(
    request: Request,
    session: Session,
    encoder: str,
    *,
    values: Mapping[str, str],
    refused: InvalidSpecError | None = None,
) -> Response:
    reported = {row.name: row for row in list_rewards(session)}
    learned = [(f"{PREFERENCE}:{row.id}", f"Learned: {row.name}") for row in page_queries.reward_models(session)]
    computed = [(name, reported[name].title) for name in DIFFERENTIABLE_REWARDS if name != PREFERENCE]
    similarity = reported.get("clip_similarity")
    context = {
        "values": values,
        "refused": refused.detail if refused else None,
        "errors": _errors(refused),
        "checkpoints": checkpoints.list_checkpoints(session, limit=200).items,
        "rewards": [*learned, *computed],
        "scales": SCALES,
        "encoder": encoder,
        "text_encoders": TEXT_ENCODERS,
        "why_no_prompt": why_no_prompt(encoder),
        "why_no_clip": similarity.why_not if similarity is not None and similarity.can_run is False else None,
        "runs": [view_job(row) for row in queries.guided_jobs(session, limit=12)],
        "most": _MOST_GUIDED,
    }
    return render(request, "analysis/guidance.html", context, status=422 if refused else 200)


def _errors(refused: TastemakerError | None) -> dict[str, str]:
    """Messages by field, without the paths that only programs know."""
    errors = refused.errors if isinstance(refused, InvalidSpecError) else []
    found: dict[str, str] = {}
    for error in errors:
        parts = error["field"].removeprefix("spec.").split(".")
        name = parts[1] if parts[0] == "guidance" and len(parts) > 1 else parts[0]
        found.setdefault(
            name.replace("checkpoint_ids", "checkpoint_id"), error["message"].removeprefix("Value error, ")
        )
    return found
