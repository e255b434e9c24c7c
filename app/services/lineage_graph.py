"""The graph from raters to checkpoints and back: what a thing came from, and what a change of it would affect.

rater -> campaign -> label snapshot -> reward model -> job -> checkpoint -> job, campaign -> ...
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from pydantic import ConfigDict
from sqlalchemy.orm import Session

from app.db.models import Job
from app.db.queries import lineage_graph as queries
from app.domain.documented import Documented
from app.domain.errors import NotFoundError

MOST_NODES = 500
"""A walk ends when it has met this many things."""
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")


class NodeKind(StrEnum):
    RATER = "rater"
    CAMPAIGN = "campaign"
    LABEL_SNAPSHOT = "label_snapshot"
    REWARD_MODEL = "reward_model"
    JOB = "job"
    CHECKPOINT = "checkpoint"


class Node(Documented):
    """One thing of the graph."""

    model_config = ConfigDict(frozen=True)

    kind: NodeKind
    id: UUID
    name: str
    detail: str
    """A few words that tell it from its like."""


class LineageGraph(Documented):
    """A thing, what it came from and what came of it, step by step."""

    node: Node
    comes_from: list[list[Node]]
    """The direct causes first, then theirs, and so on; each thing once."""
    led_to: list[list[Node]]
    """What was made with it directly, then what was made with that: all that a change of it would affect."""
    affected: dict[str, int]
    """How many things of each kind `led_to` holds."""
    complete: bool
    """Whether every way was followed to its end."""


@dataclass(frozen=True)
class _Walk:
    levels: list[list[Node]]
    complete: bool


_Ids = dict[NodeKind, set[UUID]]


def graph_of(session: Session, kind: NodeKind, id: UUID) -> LineageGraph:
    """Raises NotFoundError."""
    found = _nodes(session, {kind: {id}})
    if not found:
        raise NotFoundError(f"There is no {kind.value.replace('_', ' ')} {id}.")
    up, down = _walk(session, found[0], _causes), _walk(session, found[0], _effects)
    counts = Counter(node.kind.value for level in down.levels for node in level)
    return LineageGraph(
        node=found[0],
        comes_from=up.levels,
        led_to=down.levels,
        affected=dict(counts),
        complete=up.complete and down.complete,
    )


def _walk(session: Session, start: Node, step: Callable[[Session, _Ids], _Ids]) -> _Walk:
    seen: _Ids = {start.kind: {start.id}}
    frontier: _Ids = {start.kind: {start.id}}
    levels: list[list[Node]] = []
    n = 0
    while True:
        reached = {kind: ids - seen.get(kind, set()) for kind, ids in step(session, frontier).items()}
        nodes = _nodes(session, reached)
        if not nodes:
            return _Walk(levels, complete=True)
        n += len(nodes)
        if n > MOST_NODES:
            levels.append(nodes[: max(0, MOST_NODES - n + len(nodes))])
            return _Walk(levels, complete=False)
        levels.append(nodes)
        frontier = {}
        for node in nodes:
            frontier.setdefault(node.kind, set()).add(node.id)
            seen.setdefault(node.kind, set()).add(node.id)


def _effects(session: Session, of: _Ids) -> _Ids:
    snapshots = queries.snapshots_of(session, of.get(NodeKind.CAMPAIGN, ()))
    saved, learned = queries.made_by(session, of.get(NodeKind.JOB, ()))
    inputs = of.get(NodeKind.CHECKPOINT, set()) | of.get(NodeKind.REWARD_MODEL, set())
    campaigns = queries.voted_in(session, of.get(NodeKind.RATER, ()))
    shown = queries.campaigns_showing(session, of.get(NodeKind.CHECKPOINT, ()))
    models = queries.models_of(session, of.get(NodeKind.LABEL_SNAPSHOT, ()))
    return {
        NodeKind.CAMPAIGN: {*campaigns, *shown},
        NodeKind.LABEL_SNAPSHOT: set(snapshots),
        NodeKind.REWARD_MODEL: {*models, *learned},
        NodeKind.JOB: set(queries.jobs_naming(session, inputs)),
        NodeKind.CHECKPOINT: set(saved),
    }


def _causes(session: Session, of: _Ids) -> _Ids:
    models = queries.reward_models(session, of.get(NodeKind.REWARD_MODEL, ()))
    snapshots = queries.snapshots(session, of.get(NodeKind.LABEL_SNAPSHOT, ()))
    made = queries.checkpoints(session, of.get(NodeKind.CHECKPOINT, ()))
    named = _named(queries.jobs(session, of.get(NodeKind.JOB, ())))
    campaigns = of.get(NodeKind.CAMPAIGN, set())
    voters = set(queries.raters_of(session, campaigns))
    voters.update(queries.raters_in(session, [row.id for row in snapshots]))
    return {
        NodeKind.RATER: voters,
        NodeKind.CAMPAIGN: {row.campaign_id for row in snapshots} | named,
        NodeKind.LABEL_SNAPSHOT: {row.snapshot_id for row in models},
        NodeKind.REWARD_MODEL: named,
        NodeKind.JOB: {row.job_id for row in models} | {row.job_id for row in made if row.job_id is not None},
        NodeKind.CHECKPOINT: {*named, *queries.shown_in(session, campaigns)},
    }


def _named(jobs: Iterable[Job]) -> set[UUID]:
    """Every id in the jobs' specs; looked up as each kind, it is found as the one that it is."""
    return {UUID(text) for job in jobs for text in _UUID.findall(str(job.spec))}


def _nodes(session: Session, ids: _Ids) -> list[Node]:
    def wanted(kind: NodeKind) -> Collection[UUID]:
        return ids.get(kind, ())

    found = [
        Node(kind=NodeKind.RATER, id=rater.id, name=rater.name, detail=rater.role.value)
        for rater in queries.raters(session, wanted(NodeKind.RATER))
    ]
    found += [
        Node(kind=NodeKind.CAMPAIGN, id=campaign.id, name=campaign.name, detail=campaign.question)
        for campaign in queries.campaigns(session, wanted(NodeKind.CAMPAIGN))
    ]
    for row in queries.snapshots(session, wanted(NodeKind.LABEL_SNAPSHOT)):
        detail = f"frozen as {row.sha256[:12]}"
        found.append(Node(kind=NodeKind.LABEL_SNAPSHOT, id=row.id, name=f"{row.n_labels} votes", detail=detail))
    for model in queries.reward_models(session, wanted(NodeKind.REWARD_MODEL)):
        accuracy = "accuracy unknown" if model.accuracy is None else f"held-out accuracy {model.accuracy:.0%}"
        found.append(Node(kind=NodeKind.REWARD_MODEL, id=model.id, name=model.name, detail=accuracy))
    for job in queries.jobs(session, wanted(NodeKind.JOB)):
        detail = f"{job.kind.value.replace('_', ' ')}, {job.status.value}"
        found.append(Node(kind=NodeKind.JOB, id=job.id, name=job.name, detail=detail))
    for checkpoint in queries.checkpoints(session, wanted(NodeKind.CHECKPOINT)):
        detail = checkpoint.kind.value if checkpoint.epoch is None else f"epoch {checkpoint.epoch}"
        found.append(Node(kind=NodeKind.CHECKPOINT, id=checkpoint.id, name=checkpoint.name, detail=detail))
    return found


def grouped(nodes: Sequence[Node]) -> list[tuple[NodeKind, list[Node]]]:
    """The things of one step by kind, for pages."""
    return [(kind, of_kind) for kind in NodeKind if (of_kind := [node for node in nodes if node.kind is kind])]
