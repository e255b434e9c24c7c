"""SQL of tags: a JSON list of words in one column, searched on both databases."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, cast, exists, func, literal_column, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.db.models import Checkpoint, SampleMark


def has_tag(session: Session, column: InstrumentedAttribute[list[str]], tag: str) -> ColumnElement[bool]:
    """Whether the list holds exactly this tag."""
    if session.get_bind().dialect.name == "postgresql":
        return cast(column, JSONB).contains([tag])
    entries = func.json_each(column).table_valued("value", name="entry")
    return exists(select(literal_column("1")).select_from(entries).where(entries.c.value == tag))


def checkpoint_tags(session: Session) -> list[str]:
    """Every tag that a checkpoint has."""
    rows = session.scalars(select(Checkpoint.tags).where(Checkpoint.deleted_at.is_(None)))
    return _sorted(list(rows))


def sample_tags(session: Session) -> list[str]:
    """Every tag that a sample has."""
    return _sorted(list(session.scalars(select(SampleMark.tags))))


def _sorted(lists: Sequence[Sequence[str]]) -> list[str]:
    return sorted({tag for tags in lists for tag in tags})
