"""Votes as the statistics see them, free of sides and of the database."""

from app.db.queries.campaigns import VoteRow
from app.domain.enums import Choice
from app.domain.estimates import Vote


def as_vote(row: VoteRow) -> Vote:
    expected = None
    if row.better_sample_id is not None:
        expected = Choice.LEFT if row.left_sample_id == row.better_sample_id else Choice.RIGHT
    return Vote(
        comparison_id=row.comparison_id,
        pair=row.pair_id,
        rater=row.rater_id,
        choice=row.choice,
        a_is_left=row.left_sample_id == row.sample_a_id,
        response_ms=row.response_ms,
        repeat_of=row.repeat_of,
        left=row.left_sample_id,
        right=row.right_sample_id,
        is_random=row.is_random,
        gold=expected,
    )
