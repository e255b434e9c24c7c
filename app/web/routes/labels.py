"""Names of rewards in words."""

from sqlalchemy.orm import Session

from app.db.queries import pages as queries


def reward_labels(session: Session) -> dict[str, str]:
    """Learned rewards' stored names in words; other names speak for themselves."""
    return {f"preference:{row.id}": f"learned: {row.name}" for row in queries.reward_models(session)}
