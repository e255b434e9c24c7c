"""/lineage: what any thing came from, and what a change of it would affect."""

from uuid import UUID

from fastapi import APIRouter

from app.services.lineage_graph import LineageGraph, NodeKind, graph_of
from app.web.api.problems import problems
from app.web.deps import CurrentOperator, ReadSession
from app.web.idempotency import ApiRoute

router = APIRouter(prefix="/lineage", tags=["lineage"], route_class=ApiRoute)


@router.get("/{kind}/{id}", summary="Causes and effects of one thing", responses=problems(404))
def get_graph(kind: NodeKind, id: UUID, session: ReadSession, _caller: CurrentOperator) -> LineageGraph:
    """Both ways from a rater, campaign, label snapshot, reward model, job or checkpoint, step by step."""
    return graph_of(session, kind, id)
