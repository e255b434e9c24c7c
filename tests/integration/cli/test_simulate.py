"""`tastemaker simulate` against a running server: every vote arrives, and what is said of raters follows from them."""

from collections import Counter
from pathlib import Path
from statistics import fmean
from uuid import UUID

import pytest
from sqlalchemy import select

from app.adapters.clock import SystemClock
from app.client.client import TastemakerClient
from app.client.simulate import SimulationPlan, run_simulation
from app.db.models import Comparison, Preference, User
from app.domain.enums import Choice, Role
from app.domain.errors import InvalidSpecError
from app.services import accounts
from tests.e2e.stack import running_site


def test_simulated_raters_vote_through_the_api_and_every_figure_follows_from_their_votes(tmp_path: Path) -> None:
    with running_site(tmp_path) as site:
        now = SystemClock().now()
        with site.database.writer() as session:
            user = accounts.ensure_user(session, "olga", Role.ADMIN, now)
            token = accounts.create_token(session, user, name="olga", role=Role.ADMIN, now=now)[1]
        plan = SimulationPlan(taste="bright", raters=6, votes=240, flippers=1 / 6, leaning=1 / 6, lazy=1 / 6, gold=6)
        with TastemakerClient(site.url, token) as client:
            summary = run_simulation(client, plan, [str(site.world.base)], report=lambda _line: None)
            assert len(client.list_gold(summary.campaign_id)) == 6
            stats = client.campaign_stats(summary.campaign_id)
            with pytest.raises(InvalidSpecError, match="more than all raters"):
                run_simulation(client, SimulationPlan(flippers=0.7, lazy=0.7), [], report=lambda _line: None)
        with site.database.reader() as session:
            given = session.execute(
                select(User.name, Preference.choice)
                .select_from(Preference)
                .join(Comparison, Comparison.id == Preference.comparison_id)
                .join(User, User.id == Comparison.rater_id)
                .where(Comparison.campaign_id == UUID(summary.campaign_id))
            ).all()
    assert summary.votes == stats["votes"] == len(given) == 240
    assert set(summary.slope) == {"flipper", "leaning", "lazy", "attentive"}
    for kind in summary.slope:  # whether forty votes tell a flipper is chance; how well they do is the harness's to say
        theirs = [rater for rater in stats["raters"] if rater["name"].endswith(f"({kind})")]
        assert summary.slope[kind] == pytest.approx(fmean(rater["slope"]["value"] for rater in theirs))
        assert summary.weight[kind] == pytest.approx(fmean(rater["weight"] for rater in theirs))
    for rater in stats["raters"]:
        sides = Counter(choice for name, choice in given if name == rater["name"])
        assert rater["left_share"]["value"] == pytest.approx(
            sides[Choice.LEFT] / (sides[Choice.LEFT] + sides[Choice.RIGHT])
        )
    hurried = [rater for rater in stats["raters"] if rater["name"].endswith("(lazy)")]
    assert hurried[0]["median_ms"] < min(
        rater["median_ms"] for rater in stats["raters"] if rater["name"].endswith("(attentive)")
    )
