"""Compare: what the address asks for is what stands on the page, against computations of the test's own."""

import io
import re
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from sqlalchemy import select

from app.db.models import CampaignCheckpoint, Comparison, Pair, Preference, Retraction, Sample, SampleReward, User
from app.domain.enums import Choice, Role, Strategy

Headers = dict[str, str]


@pytest.fixture
def seeds_shown(client: TestClient, operator: Headers) -> Callable[..., list[int]]:
    """The seeds of a comparison in the order of the page."""

    def _seeds(panels: list[UUID], **query: Any) -> list[int]:
        answer = client.get("/compare", params={"c": [str(id) for id in panels], **query}, headers=operator)
        assert answer.status_code == 200, answer.text
        return [int(seed) for seed in re.findall(r"<figcaption><span>(\d+)</span>", answer.text)]

    return _seeds


def pixels(world: Any, sample: Sample) -> np.ndarray:
    with Image.open(io.BytesIO(world.blobs.get(sample.sha256))) as image:
        return np.asarray(image, dtype=np.float64)


def test_changed_most_stands_first(world: Any, seeds_shown: Any) -> None:
    base, tuned = world.checkpoint(), world.checkpoint("tuned")
    before, after = world.samples(base, range(8)), world.samples(tuned, range(8))
    change = {
        a.seed: float(np.sqrt(np.mean((pixels(world, a) - pixels(world, b)) ** 2)))
        for a, b in zip(before, after, strict=True)
    }
    assert seeds_shown([base, tuned], sort="changed") == sorted(change, key=lambda seed: -change[seed])
    assert seeds_shown([base, tuned]) == list(range(8))


def test_the_greatest_gain_of_the_reward_stands_first(world: Any, seeds_shown: Any) -> None:
    base, tuned = world.checkpoint(), world.checkpoint("tuned")
    before, after = world.samples(base, range(4)), world.samples(tuned, range(4))
    gains = [0.5, -2.0, 3.0, 1.0]
    world.add(*(SampleReward(sample_id=sample.id, name="r", value=10.0 * k) for k, sample in enumerate(before)))
    world.add(*(SampleReward(sample_id=s.id, name="r", value=10.0 * k + gains[k]) for k, s in enumerate(after)))
    assert seeds_shown([base, tuned], sort="reward", reward="r") == [2, 3, 0, 1]


def test_the_most_divided_votes_stand_first(
    world: Any, seeds_shown: Any, client: TestClient, operator: Headers
) -> None:
    base, tuned = world.checkpoint(), world.checkpoint("tuned")
    before, after = world.samples(base, range(3)), world.samples(tuned, range(3))
    campaign = world.campaign(base)
    world.add(CampaignCheckpoint(campaign_id=campaign, checkpoint_id=tuned, position=1))
    # seed 0: all for the tuned one; seed 1: two and two, sides swapped; seed 2: three to one
    votes = {0: [1, 1, 1, 1], 1: [1, 0, 1, 0], 2: [1, 1, 1, 0]}
    for seed, shares in votes.items():
        a, b = sorted((before[seed], after[seed]), key=lambda sample: sample.id)
        pair = Pair(
            id=uuid4(), campaign_id=campaign, sample_a_id=a.id, sample_b_id=b.id, n_leased=4, created_at=world.now
        )
        world.add(pair)
        for place, for_tuned in enumerate(shares):
            rater = User(id=uuid4(), name=f"r{seed}{place}", role=Role.RATER, created_at=world.now)
            left, right = (after[seed], before[seed]) if place % 2 else (before[seed], after[seed])
            choice = Choice.LEFT if (left is after[seed]) == bool(for_tuned) else Choice.RIGHT
            lease = Comparison(
                id=uuid4(), campaign_id=campaign, pair_id=pair.id, rater_id=rater.id, left_sample_id=left.id,
                right_sample_id=right.id, strategy=Strategy.TOURNAMENT, is_random=True, selection_probability=0.5,
                leased_at=world.now, expires_at=world.now, closed_at=world.now,
            )  # fmt: skip
            vote = Preference(
                comparison_id=lease.id, campaign_id=campaign, rater_id=rater.id, choice=choice, created_at=world.now,
                updated_at=world.now,
            )  # fmt: skip
            world.add(rater, lease, vote)
    assert seeds_shown([base, tuned], sort="disagree") == [1, 2, 0]
    page = client.get("/compare", params={"c": [str(base), str(tuned)], "sort": "disagree"}, headers=operator).text
    assert "2 of 4 votes for" in page
    with world.database.writer() as session:
        for name in ("r11", "r13"):  # those who did not prefer the tuned one
            rater = session.scalars(select(User).where(User.name == name)).one()
            session.add(Retraction(campaign_id=campaign, rater_id=rater.id, reason="", retracted_at=world.now))
    assert seeds_shown([base, tuned], sort="disagree") == [2, 0, 1]
    with world.database.writer() as session:
        for lease in session.scalars(select(Comparison)):
            lease.is_gold = True
    assert (
        "votes for"
        not in client.get("/compare", params={"c": [str(base), str(tuned)], "sort": "disagree"}, headers=operator).text
    )


def test_one_scrubber_moves_all_panels_to_what_their_runs_had_saved_by_then(
    world: Any, client: TestClient, operator: Headers
) -> None:
    base = world.checkpoint("base")
    _, first = world.finetune(base, [2, 4, 6])
    _, second = world.finetune(base, [3, 5])
    for id in (base, *first, *second):
        world.samples(id, [7])
    shown = {
        0: [base, base],
        1: [base, base],
        3: [first[0], second[0]],
        4: [first[1], second[0]],
        6: [first[2], second[1]],
    }
    for epoch, expected in shown.items():
        query = {"c": [str(first[2]), str(second[1])], "epoch": epoch, "fragment": 1}
        page = client.get("/compare", params=query, headers=operator).text
        legend = page[: page.index("</ul>")]
        assert re.findall(r'href="/checkpoints/([0-9a-f-]+)"', legend) == [str(id) for id in expected], epoch
    default = client.get(
        "/compare", params={"c": [str(first[1]), str(second[0])], "fragment": 1}, headers=operator
    ).text
    assert re.findall(r'href="/checkpoints/([0-9a-f-]+)"', default)[:2] == [str(first[1]), str(second[0])]


def test_the_difference_picture_is_three_times_the_difference(
    world: Any, client: TestClient, operator: Headers
) -> None:
    base, tuned = world.checkpoint(), world.checkpoint("tuned")
    [a], [b] = world.samples(base, [1]), world.samples(tuned, [1])
    url = f"/api/v1/samples/{a.id}/difference/{b.id}"
    answer = client.get(url, headers=operator)
    with Image.open(io.BytesIO(answer.content)) as image:
        found = np.asarray(image, dtype=np.float64)
    np.testing.assert_array_equal(found, np.clip(3 * np.abs(pixels(world, a) - pixels(world, b)), 0, 255))
    again = client.get(url, headers=operator | {"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304
    large = world.samples(world.checkpoint("wide"), [2])[0]
    with world.database.writer() as session:
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "PNG")
        session.get_one(Sample, large.id).sha256 = world.blobs.put(buffer.getvalue())
    assert client.get(f"/api/v1/samples/{a.id}/difference/{large.id}", headers=operator).status_code == 409


def test_seven_checkpoints_are_too_many_and_one_is_too_few(world: Any, client: TestClient, operator: Headers) -> None:
    ids = [str(world.checkpoint(f"c{k}")) for k in range(7)]
    assert client.get("/compare", params={"c": ids}, headers=operator).status_code == 422
    assert "choose another" in client.get("/compare", params={"c": ids[:1]}, headers=operator).text
    assert "no seed in common" in client.get("/compare", params={"c": ids[:2]}, headers=operator).text


def test_very_many_samples_are_compared_on_seeds_of_the_one_that_drew_fewest(
    world: Any, seeds_shown: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.queries.comparing._EXACT", 10)
    base, tuned = world.checkpoint(), world.checkpoint("tuned")
    world.samples(base, range(30))
    world.samples(tuned, [3, 25, 99])
    assert seeds_shown([base, tuned]) == [3, 25]
