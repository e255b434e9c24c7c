"""Analyses: the list, one analysis as a figure, and the over-optimisation report."""

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.orm import Session

from app.db.queries import pages as page_queries
from app.domain.enums import AnalysisKind, EventKind
from app.domain.errors import NotFoundError
from app.services import analyses, checkpoints, jobs, over_optimisation, uploads
from app.services.analyses import AnalysisWithDocument
from app.services.checkpoints import CheckpointView
from app.web import analysis_figures as figures
from app.web.deps import Blobs, CurrentOperator, ReadSession
from app.web.pagination import After, encode_cursor
from app.web.templating import render

router = APIRouter(prefix="/analysis")

_PAIRS_A_PAGE = 24
_LOG_LINES = 50

KIND_LEDES: dict[AnalysisKind, str] = {
    AnalysisKind.REWARD_TRAJECTORY: "At which step a reward is decided: of the noisy image and of what the model "
    "predicts from it.",
    AnalysisKind.EMBEDDING_MAP: "Where finetuning moved every sample, in the eyes of an image encoder.",
    AnalysisKind.DIVERSITY: "Whether the images have become alike: Vendi score, distances, near copies.",
    AnalysisKind.AGE_DISTRIBUTION: "How a classifier's classes are spread before and after; needs its weights.",
    AnalysisKind.INVERSION: "The noise that an uploaded image would have come from, and the image drawn from it again.",
}


@router.get("")
def list_analyses(
    request: Request, session: ReadSession, _operator: CurrentOperator, after: After, kind: AnalysisKind | None = None
) -> Response:
    found = analyses.list_analyses(session, kind=kind, after=after, limit=30)
    ids = {id for row in found.items for id in row.checkpoint_ids}
    known = {row.id: row.name for row in checkpoints.existing(session, list(ids))}
    return render(
        request,
        "analysis/index.html",
        {
            "analyses": found.items,
            "names": {id: known.get(id, "a deleted checkpoint") for id in ids},
            "next_cursor": encode_cursor(*found.end) if found.end else None,
            "kind": kind,
            "ledes": KIND_LEDES,
            "finetuned": [row for row in checkpoints.list_checkpoints(session, limit=24).items if row.job_id][:8],
        },
    )


@router.get("/over-optimisation/{checkpoint_id}")
def over_optimisation_report(
    request: Request, session: ReadSession, blobs: Blobs, _operator: CurrentOperator, checkpoint_id: UUID
) -> Response:
    report = over_optimisation.report_of(session, blobs, checkpoint_id)
    return render(
        request,
        "analysis/over_optimisation.html",
        {
            "report": report,
            "checkpoint": checkpoints.get_checkpoint(session, checkpoint_id),
            "base": checkpoints.get_checkpoint(session, report.base_id),
            "figure_": figures.run_figure(report),
        },
    )


@router.get("/{analysis_id}")
def show(
    request: Request,
    session: ReadSession,
    blobs: Blobs,
    _operator: CurrentOperator,
    analysis_id: UUID,
    method: Literal["pca", "tsne"] = "tsne",
    reward: str | None = None,
    of: Annotated[int, Query(ge=0)] = 0,
    page: Annotated[int, Query(ge=1, le=1000)] = 1,
) -> Response:
    analysis = analyses.get_analysis(session, blobs, analysis_id)
    job = jobs.get_job(session, analysis_id)
    log = page_queries.events_of_kind(session, analysis_id, EventKind.LOG, last=_LOG_LINES)
    named = checkpoints.existing(session, analysis.checkpoint_ids)
    context: dict[str, Any] = {
        "analysis": analysis,
        "job": job,
        "document": analysis.document,
        "checkpoints": named,
        "lede": KIND_LEDES[analysis.kind],
        "last_seq": page_queries.last_event_seq(session, analysis_id),
        "log": [event.payload.get("message", "") for event in log],
        "labels": over_optimisation.reward_labels(session),
        "images": f"/api/v1/analyses/{analysis.id}/images/",
    }
    if analysis.document is not None:
        context |= _figure_context(session, analysis, named, method=method, reward=reward, of=of, page=page)
    return render(request, "analysis/show.html", context)


def _figure_context(
    session: Session,
    analysis: AnalysisWithDocument,
    named: list[CheckpointView],
    *,
    method: str,
    reward: str | None,
    of: int,
    page: int,
) -> dict[str, Any]:
    """What the kind's fragment draws; `reward` and `of` fall back to the first there is."""
    document = analysis.document
    assert document is not None
    match analysis.kind:
        case AnalysisKind.REWARD_TRAJECTORY:
            of = min(of, len(document["trajectories"]) - 1)
            traced = document["trajectories"][of]
            if reward is None or reward not in traced["rewards"]:
                reward = str(next(iter(traced["rewards"])))
            panels = figures.trace_panels(traced, reward, document["seeds"])
            return {"of": of, "reward": reward, "traced": traced, "panels": panels}
        case AnalysisKind.EMBEDDING_MAP:
            of = min(of, len(document["maps"]) - 1)
            if reward not in document["rewards"]:
                reward = next(iter(document["rewards"]), None)
            drawn = figures.map_figure(document, place=of, method=method, reward=reward)
            pages = -(-len(drawn.pairs) // _PAIRS_A_PAGE)
            page = min(page, pages)
            return {
                "of": of, "reward": reward, "method": method, "map": drawn, "page": page, "pages": pages,
                "pairs": drawn.pairs[(page - 1) * _PAIRS_A_PAGE : page * _PAIRS_A_PAGE],
            }  # fmt: skip
        case AnalysisKind.DIVERSITY:
            by_id = {str(row.id): row for row in named}
            epochs = [by_id.get(row["id"]) for row in document["checkpoints"]]
            labels = ["base" if row is None or row.epoch is None else f"ep. {row.epoch}" for row in epochs]
            return {"panels": figures.diversity_panels(document, labels), "measures": figures.DIVERSITY_MEASURES}
        case AnalysisKind.INVERSION:
            return {"upload": _upload_or_none(session, analysis.spec.get("image_id"))}
        case _:
            return {}


def _upload_or_none(session: Session, image_id: str | None) -> uploads.UploadView | None:
    try:
        return uploads.get_upload(session, UUID(image_id)) if image_id else None
    except NotFoundError:
        return None
