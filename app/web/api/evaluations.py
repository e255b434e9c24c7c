"""/evaluations: rewards of checkpoints beside their base, as a table."""

from enum import StrEnum
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict

from app.domain.tables import to_csv, to_latex, to_markdown
from app.services import evaluation
from app.services.evaluation import MOST_CHECKPOINTS, EvaluationRow
from app.web.api.problems import problems
from app.web.deps import CurrentOperator, ReadSession
from app.web.idempotency import ApiRoute

router = APIRouter(prefix="/evaluations", tags=["checkpoints"], route_class=ApiRoute)


class TableFormat(StrEnum):
    JSON = "json"
    CSV = "csv"
    MARKDOWN = "markdown"
    LATEX = "latex"


_WRITERS = {
    TableFormat.CSV: (to_csv, "text/csv; charset=utf-8", "csv"),
    TableFormat.MARKDOWN: (to_markdown, "text/markdown; charset=utf-8", "md"),
    TableFormat.LATEX: (to_latex, "application/x-latex; charset=utf-8", "tex"),
}


class EvaluationTable(BaseModel):
    """The table, and the checkpoints that share no measured seeds with their base."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "items": [
                    {
                        "reward": "brightness",
                        "title": "Brightness, share of white",
                        "checkpoint_id": "1b2f6a0e-8f7a-4d5e-9b53-2f6c3c1f7a10",
                        "checkpoint_name": "warm: finetune · epoch 5",
                        "base_id": "6f1f6f0e-8f7a-4d5e-9b53-2f6c3c1f7a10",
                        "base_name": "critters-64",
                        "base": {"mean": 0.507, "sem": 0.005},
                        "finetuned": {"mean": 0.761, "sem": 0.003},
                        "difference": {"mean": 0.254, "sem": 0.004},
                        "n": 1000,
                        "steps": 40,
                        "eta": 1.0,
                    }
                ],
                "unmeasured_ids": [],
            }
        }
    )

    items: list[EvaluationRow]
    unmeasured_ids: list[UUID]


@router.get(
    "",
    summary="Rewards of checkpoints beside their base",
    response_model=EvaluationTable,
    responses=problems(
        404,
        409,
        besides={
            200: {
                "description": "The table.",
                "content": {media.partition(";")[0]: {} for _, media, _ in _WRITERS.values()},
            }
        },
    ),
)
def get_table(
    session: ReadSession,
    _caller: CurrentOperator,
    checkpoint_id: Annotated[
        list[UUID] | None,
        Query(max_length=MOST_CHECKPOINTS, description="Finetuned checkpoints; the newest runs' results without it."),
    ] = None,
    reward: Annotated[
        list[str] | None,
        Query(max_length=32, description="Stored names of rewards; all that were measured without it."),
    ] = None,
    format: Annotated[TableFormat, Query(description="JSON, or a file of the table.")] = TableFormat.JSON,
) -> Response | EvaluationTable:
    """Mean and standard error over the seeds that a checkpoint and its base both drew with the same recipe, and the
    paired difference. Queue a job of the kind `evaluate` for more seeds or other rewards."""
    ids = checkpoint_id or [row.id for row in evaluation.candidates(session)]
    table = evaluation.evaluate(session, ids, reward or ())
    if format is TableFormat.JSON:
        return EvaluationTable(items=table.rows, unmeasured_ids=[row.id for row in table.unmeasured])
    write, media, ending = _WRITERS[format]
    headers = {"Content-Disposition": f'attachment; filename="evaluation.{ending}"'}
    return Response(write(table.lines), media_type=media, headers=headers)
