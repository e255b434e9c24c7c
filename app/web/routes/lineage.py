"""Lineage: from any rater, vote snapshot, reward model, job or checkpoint to its causes and to what came of it."""

from uuid import UUID

from fastapi import APIRouter, Request, Response

from app.services.lineage_graph import MOST_NODES, NodeKind, graph_of, grouped
from app.web.deps import CurrentOperator, ReadSession
from app.web.templating import render

router = APIRouter()

_OWN_PAGE = {
    NodeKind.CAMPAIGN: "/campaigns/{}",
    NodeKind.REWARD_MODEL: "/reward-models/{}",
    NodeKind.JOB: "/jobs/{}",
    NodeKind.CHECKPOINT: "/checkpoints/{}",
}


@router.get("/lineage/{kind}/{id}")
def show(request: Request, session: ReadSession, _operator: CurrentOperator, kind: NodeKind, id: UUID) -> Response:
    graph = graph_of(session, kind, id)
    return render(
        request,
        "lineage/show.html",
        {
            "graph": graph,
            "comes_from": [grouped(level) for level in graph.comes_from],
            "led_to": [grouped(level) for level in graph.led_to],
            "own_page": _OWN_PAGE[kind].format(id) if kind in _OWN_PAGE else None,
            "most": MOST_NODES,
        },
    )
