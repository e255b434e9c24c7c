"""What rests on votes that were retracted since it was made."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from app.db.queries import trust as queries


@dataclass(frozen=True)
class Marks:
    """Reward models with the number of retracted votes in their snapshots, and the checkpoints taught by them."""

    reward_models: dict[UUID, int]
    checkpoints: frozenset[UUID]


def marks(session: Session) -> Marks:
    """Everything that is marked. One query where nobody is retracted, which is the rule."""
    models = queries.retracted_votes(session)
    taught = queries.checkpoints_taught_by(session, list(models))
    return Marks(models, frozenset(row.id for row in taught))
