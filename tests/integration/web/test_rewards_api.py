"""/rewards: an answer before any worker has reported, and the workers' own word afterwards."""

from typing import Any

from fastapi.testclient import TestClient

from app.db.models import RewardAvailability
from app.domain.rewards import BUILT_IN_REWARDS

Headers = dict[str, str]


def rewards(client: TestClient, headers: Headers) -> dict[str, Any]:
    body = client.get("/api/v1/rewards", headers=headers).json()
    assert body["next_cursor"] is None
    return {item["name"]: item for item in body["items"]}


def test_the_built_in_rewards_are_listed_before_any_worker_has_reported(client: TestClient, operator: Headers) -> None:
    listed = rewards(client, operator)
    assert list(listed) == [info.name for info in BUILT_IN_REWARDS]
    assert {"jpeg_compressibility", "jpeg_incompressibility", "preference"} <= listed.keys()
    for item in listed.values():
        assert item["can_run"] is None
        assert "No worker has reported" in item["why_not"]


def test_what_a_worker_reports_replaces_and_adds(client: TestClient, world: Any, operator: Headers) -> None:
    info = BUILT_IN_REWARDS[0].model_dump() | {"can_run": True, "why_not": None}
    extra = info | {"name": "zebra_stripes", "can_run": False, "why_not": "no zebra weights"}
    world.add(RewardAvailability(name=info["name"], info=info, updated_at=world.now))
    world.add(RewardAvailability(name="zebra_stripes", info=extra, updated_at=world.now))
    listed = rewards(client, operator)
    assert list(listed) == [*(info.name for info in BUILT_IN_REWARDS), "zebra_stripes"]
    assert listed[info["name"]]["can_run"] is True
    assert listed[info["name"]]["reported_at"] is not None
    assert (listed["zebra_stripes"]["can_run"], listed["zebra_stripes"]["why_not"]) == (False, "no zebra weights")
