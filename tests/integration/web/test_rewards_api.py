"""/rewards: an answer before any worker has reported, and the workers' own word afterwards."""

import dataclasses
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from app.config import Settings
from app.db.models import RewardAvailability
from app.db.session import Database
from app.domain.rewards import BUILT_IN_REWARDS
from tests.age_classifier import save_age_classifier
from worker.jobs.publish_rewards import publish
from worker.jobs.runtime import open_runtime

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


def test_a_reward_can_run_where_any_host_that_reported_lately_can_run_it(
    client: TestClient, operator: Headers, database: Database, settings: Settings, tmp_path: Path, clock: Any
) -> None:
    weights = save_age_classifier(tmp_path / "weights")
    able, unable = (
        dataclasses.replace(open_runtime(settings.model_copy(update={"weights_dir": folder})), clock=clock)
        for folder in (weights, None)
    )
    publish(unable, host="cpu-1")
    assert rewards(client, operator)["over50"]["can_run"] is False
    publish(able, host="gpu-1")
    publish(unable, host="cpu-1")  # it starts again, after the other
    assert rewards(client, operator)["over50"]["can_run"] is True
    assert rewards(client, operator)["brightness"]["can_run"] is True
    with database.writer() as session:
        gone = RewardAvailability(
            name="zebra", info={"able": {"gpu-1": clock.now().isoformat()}}, updated_at=clock.now()
        )
        session.add(gone)
    publish(unable, host="cpu-1")
    with database.reader() as session:
        assert session.get(RewardAvailability, "zebra") is not None
    publish(able, host="gpu-1")  # which had the plugin and has it no more
    with database.reader() as session:
        assert session.get(RewardAvailability, "zebra") is None
    clock.advance(days=8)
    publish(unable, host="cpu-1")
    found = rewards(client, operator)["over50"]
    assert (found["can_run"], "TASTEMAKER_WEIGHTS_DIR" in found["why_not"]) == (False, True)
