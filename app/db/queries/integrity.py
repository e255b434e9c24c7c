"""SQL behind `tastemaker doctor`: what must hold between rows, each check as the rows that break it."""

from collections.abc import Iterator
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, ForeignKeyConstraint, Select, and_, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from app.db.base import Base
from app.db.models import Campaign, Checkpoint, Comparison, Job, JobEvent, Pair, Preference, Sample

_EXAMPLES = 5


class Broken(NamedTuple):
    """How many rows break a rule, and a few of them."""

    n: int
    examples: list[str]


class Dangling(NamedTuple):
    """Rows of `table` whose `columns` name a row of `parent` that is not there."""

    table: str
    columns: str
    parent: str
    broken: Broken


def dangling_references(session: Session) -> Iterator[Dangling]:
    """Every foreign key of the schema against its parent; SQLite files edited by hand can break them."""
    for table in Base.metadata.sorted_tables:
        for key in table.foreign_key_constraints:
            yield from _dangling(session, key)


def event_gaps(session: Session) -> Broken:
    """Jobs whose log is not numbered 1, 2, ... `last_event_seq`."""
    events = (
        select(
            JobEvent.job_id,
            func.count().label("n"),
            func.min(JobEvent.seq).label("first"),
            func.max(JobEvent.seq).label("last"),
        )
        .group_by(JobEvent.job_id)
        .subquery()
    )
    n = func.coalesce(events.c.n, 0)
    return _broken(
        session,
        select(Job.id)
        .outerjoin(events, events.c.job_id == Job.id)
        .where(or_(n != Job.last_event_seq, func.coalesce(events.c.last, 0) != n, and_(n > 0, events.c.first != 1))),
    )


def miscounted_pairs(session: Session) -> Broken:
    """Pairs whose `n_leased` is not the number of their votes and open leases, repeats and gold left out."""
    ordinary = (Comparison.repetition == 0, ~Comparison.is_gold)
    return _miscounted(session, Pair.id, Pair.n_leased, Comparison.pair_id, *ordinary)


def miscounted_campaigns(session: Session) -> Broken:
    """Campaigns whose `n_leased` is not the number of their votes and open leases."""
    return _miscounted(session, Campaign.id, Campaign.n_leased, Comparison.campaign_id)


def overspent_campaigns(session: Session) -> Broken:
    """Campaigns that leased more than their budget."""
    return _broken(session, select(Campaign.id).where(Campaign.n_leased > Campaign.budget))


def votes_without_lease(session: Session) -> Broken:
    """Votes whose comparison is open, was given back, or is another rater's or campaign's."""
    return _broken(
        session,
        select(Preference.comparison_id)
        .join(Comparison, Comparison.id == Preference.comparison_id)
        .where(
            or_(
                Comparison.closed_at.is_(None),
                Comparison.expired,
                Comparison.rater_id != Preference.rater_id,
                Comparison.campaign_id != Preference.campaign_id,
            )
        ),
    )


def leases_without_vote(session: Session) -> Broken:
    """Comparisons that were closed by a vote which is not there."""
    return _broken(
        session,
        select(Comparison.id)
        .outerjoin(Preference, Preference.comparison_id == Comparison.id)
        .where(Comparison.closed_at.is_not(None), ~Comparison.expired, Preference.comparison_id.is_(None)),
    )


def sides_not_of_the_pair(session: Session) -> Broken:
    """Comparisons that showed other samples than their pair's."""
    left, right = Comparison.left_sample_id, Comparison.right_sample_id
    return _broken(
        session,
        select(Comparison.id)
        .join(Pair, Pair.id == Comparison.pair_id)
        .where(
            ~or_(
                and_(left == Pair.sample_a_id, right == Pair.sample_b_id),
                and_(left == Pair.sample_b_id, right == Pair.sample_a_id),
            )
        ),
    )


def ordinals_beyond_count(session: Session) -> Broken:
    """Checkpoints that would hand out a sample number twice."""
    return _broken(
        session,
        select(Checkpoint.id)
        .join(Sample, Sample.checkpoint_id == Checkpoint.id)
        .group_by(Checkpoint.id, Checkpoint.n_samples)
        .having(func.max(Sample.ordinal) >= Checkpoint.n_samples),
    )


def row_count(session: Session) -> int:
    """Rows in all tables."""
    return sum(session.scalar(select(func.count()).select_from(table)) or 0 for table in Base.metadata.sorted_tables)


def _miscounted(
    session: Session,
    id: InstrumentedAttribute[UUID],
    counter: InstrumentedAttribute[int],
    owner: InstrumentedAttribute[UUID],
    *conditions: ColumnElement[bool],
) -> Broken:
    leases = (
        select(owner.label("owner"), func.count().label("n"))
        .where(~Comparison.expired, *conditions)
        .group_by(owner)
        .subquery()
    )
    return _broken(
        session,
        select(id).outerjoin(leases, leases.c.owner == id).where(counter != func.coalesce(leases.c.n, 0)),
    )


def _dangling(session: Session, key: ForeignKeyConstraint) -> Iterator[Dangling]:
    child, parent = key.table, aliased(key.referred_table)
    matches = and_(*(element.parent == parent.c[element.column.name] for element in key.elements))
    columns = [element.parent for element in key.elements]
    broken = _broken(
        session,
        select(*child.primary_key.columns)
        .outerjoin(parent, matches)
        .where(
            *(column.is_not(None) for column in columns),
            *(column.is_(None) for column in parent.primary_key),
        ),
    )
    if broken.n:
        yield Dangling(child.name, ", ".join(column.name for column in columns), key.referred_table.name, broken)


def _broken(session: Session, rows: Select[*tuple[object, ...]]) -> Broken:
    n = session.scalar(select(func.count()).select_from(rows.subquery())) or 0
    examples = session.execute(rows.limit(_EXAMPLES)).all() if n else []
    return Broken(n, [" ".join(str(value) for value in row) for row in examples])
