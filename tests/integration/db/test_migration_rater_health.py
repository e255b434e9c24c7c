"""Migration 0004 with data in place, up and down, on both databases."""

from typing import Any
from uuid import uuid4

from alembic import command
from sqlalchemy import Connection, text

from app.config import Settings
from app.db import migrate as migrations
from app.db.models import Campaign, Comparison, LabelSnapshot, Pair, Preference, Sample, SnapshotRater
from app.db.queries import integrity
from app.db.session import Database
from app.domain.enums import Choice, Role, Strategy
from app.services import accounts
from tests.labeling_data import add_checkpoint


def step(connection: Connection, revision: str, *, down: bool = False) -> None:
    config = migrations._config()
    config.attributes["connection"] = connection
    (command.downgrade if down else command.upgrade)(config, revision)


def test_votes_of_before_survive_both_ways_and_snapshots_learn_their_raters(
    database: Database, settings: Settings, clock: Any
):
    now = clock.now()
    base = add_checkpoint(database, settings, seeds=range(4))
    with database.writer() as session:
        rater = accounts.ensure_user(session, "ada", Role.RATER, now)
        a, b, c, _ = sorted(row.id for row in session.query(Sample).filter_by(checkpoint_id=base))
        campaign = Campaign(
            name="c", question="?", strategy=Strategy.UNIFORM, overlap=1, n_leased=2, open=True, created_at=now
        )
        session.add(campaign)
        session.flush()
        for (left, right), gold in (((a, b), False), ((a, c), True)):
            pair = Pair(
                campaign_id=campaign.id, sample_a_id=left, sample_b_id=right, n_leased=int(not gold), created_at=now
            )
            session.add(pair)
            session.flush()
            lease = Comparison(
                id=uuid4(), campaign_id=campaign.id, pair_id=pair.id, rater_id=rater.id, left_sample_id=left,
                right_sample_id=right, strategy=Strategy.UNIFORM, is_random=not gold, selection_probability=1.0,
                is_gold=gold, leased_at=now, expires_at=now, closed_at=now,
            )  # fmt: skip
            session.add(lease)
            session.flush()
            session.add(
                Preference(
                    comparison_id=lease.id,
                    campaign_id=campaign.id,
                    rater_id=rater.id,
                    choice=Choice.LEFT,
                    created_at=now,
                    updated_at=now,
                )
            )
        session.add(LabelSnapshot(campaign_id=campaign.id, sha256="0" * 64, n_labels=1, created_at=now))
    with database.new_session(write=True) as session:
        before = migrations.known_revisions()
        step(session.connection(), before[before.index("0004") + 1], down=True)
        assert session.scalar(text("SELECT count(*) FROM preference")) == 1  # what was gold is no vote any more
        assert session.scalar(text("SELECT n_leased FROM campaign")) == 1
        step(session.connection(), "head")
        session.commit()
    with database.reader() as session:
        (kept,) = session.query(Preference).all()
        (row,) = session.query(SnapshotRater).all()
        assert (kept.rater_id, row.rater_id, row.n_votes, row.weight) == (rater.id, rater.id, 1, 1.0)
        assert integrity.miscounted_pairs(session).n == integrity.miscounted_campaigns(session).n == 0
