"""Evaluation tables, development sets, learning curves, and pictures made of several samples."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from app.db.models import JobEvent, Measurement, SampleReward
from app.db.queries.dev_trajectories import record_dev_trajectories
from app.domain.enums import EventKind
from tests.integration.web.conftest import World

SEEDS = range(650, 656)


def measure(world: World, checkpoint_id: UUID, values: Mapping[int, float], *, steps: int = 20) -> None:
    """Draw these seeds at the checkpoint and store a brightness for each."""
    rows = world.samples(checkpoint_id, list(values), steps=steps)
    world.add(*(SampleReward(sample_id=row.id, name="brightness", value=values[row.seed]) for row in rows))


def remember(world: World, checkpoint_id: UUID, n: int) -> None:
    world.add(Measurement(checkpoint_id=checkpoint_id, name="brightness", mean=0.5, sem=0.01, n=n))


@pytest.fixture
def run(world: World) -> tuple[UUID, UUID, list[UUID]]:
    """A base and a finetune of it with two saved epochs, measured on six held-out seeds: (base, job, epochs)."""
    base = world.checkpoint("base")
    spec = {
        "checkpoint_id": str(base),
        "reward": [{"name": "brightness"}],
        "steps": 20,
        "eval": {"every": 1, "n": 6, "seed": 650},
    }
    job, epochs = world.finetune(base, [1, 2], spec=spec)
    for position, checkpoint in enumerate([base, *epochs]):
        measure(world, checkpoint, {seed: 0.1 * position + 0.01 * (seed % 5) for seed in SEEDS})
        remember(world, checkpoint, len(SEEDS))
    return base, job, epochs


def test_a_table_pairs_the_seeds_that_both_drew_with_one_recipe(
    client: TestClient, operator: dict[str, str], world: World
) -> None:
    base = world.checkpoint("base")
    _, (tuned,) = world.finetune(base, [3])
    rng = np.random.default_rng(0)
    before = {seed: float(rng.normal(0.5, 0.1)) for seed in range(40)}
    after = {seed: before[seed] + float(rng.normal(0.2, 0.05)) for seed in range(10, 40)}
    measure(world, base, before)
    measure(world, tuned, after)
    measure(world, tuned, dict.fromkeys(range(20), 9.0), steps=10)  # another recipe, of which
    measure(world, base, dict.fromkeys(range(5), 1.0), steps=10)  # they share fewer seeds
    measure(world, tuned, dict.fromkeys(range(20), 9.0), steps=5)  # and one that the base never drew
    remember(world, tuned, 30)
    answer = client.get("/api/v1/evaluations", params={"checkpoint_id": [str(tuned)]}, headers=operator)
    assert answer.status_code == 200
    (row,) = answer.json()["items"]
    differences = np.array([after[seed] - before[seed] for seed in after])
    assert (row["n"], row["steps"], row["base_name"]) == (30, 20, "base")
    assert row["base"]["mean"] == pytest.approx(np.mean([before[seed] for seed in after]))
    assert row["difference"]["mean"] == pytest.approx(differences.mean())
    assert row["difference"]["sem"] == pytest.approx(differences.std(ddof=1) / math.sqrt(30))
    assert row["difference"]["sem"] < row["finetuned"]["sem"]


def test_every_format_holds_the_same_rows(
    client: TestClient, operator: dict[str, str], run: tuple[UUID, UUID, list[UUID]]
) -> None:
    params = {"checkpoint_id": [str(id) for id in run[2]]}
    rows = client.get("/api/v1/evaluations", params=params, headers=operator).json()["items"]
    assert [row["checkpoint_name"] for row in rows] == ["epoch 1", "epoch 2"]
    table = client.get("/api/v1/evaluations", params={**params, "format": "csv"}, headers=operator)
    assert table.headers["content-disposition"].endswith('filename="evaluation.csv"')
    lines = list(csv.DictReader(io.StringIO(table.text)))
    assert [float(line["difference_mean"]) for line in lines] == [row["difference"]["mean"] for row in rows]
    for format, mark in (("markdown", "| epoch 2 |"), ("latex", r"& epoch 2 &")):
        text = client.get("/api/v1/evaluations", params={**params, "format": format}, headers=operator).text
        assert mark in text


def test_what_shares_no_measured_seed_is_named_and_not_made_up(
    client: TestClient, operator: dict[str, str], world: World
) -> None:
    base = world.checkpoint("base")
    _, (tuned,) = world.finetune(base, [1])
    measure(world, tuned, dict.fromkeys(SEEDS, 0.5))
    remember(world, tuned, 6)
    answer = client.get("/api/v1/evaluations", headers=operator).json()
    assert answer == {"items": [], "unmeasured_ids": [str(tuned)]}


def test_a_table_refuses_what_it_does_not_know(client: TestClient, operator: dict[str, str], world: World) -> None:
    unknown = client.get("/api/v1/evaluations", params={"checkpoint_id": str(uuid4())}, headers=operator)
    assert unknown.status_code == 404
    many = {"checkpoint_id": [str(world.checkpoint(f"base {number}")) for number in range(13)]}
    assert client.get("/api/v1/evaluations", params=many, headers=operator).status_code == 422


def test_the_page_shows_the_table_and_queues_its_measurement(
    client: TestClient, operator: dict[str, str], run: tuple[UUID, UUID, list[UUID]]
) -> None:
    base, _, epochs = run
    page = client.get("/evaluation", headers=operator)
    assert page.status_code == 200
    assert "Brightness" in page.text
    assert "epoch 2" in page.text
    form = {"c": [str(epochs[1])], "reward": ["brightness", "sharpness"], "n": "50"}
    answer = client.post("/evaluation/run", data=form, headers=operator, follow_redirects=False)
    assert answer.status_code == 303, answer.text
    job = client.get("/api/v1" + answer.headers["location"], headers=operator).json()
    assert job["spec"]["checkpoint_ids"] == [str(base), str(epochs[1])]
    assert [term["name"] for term in job["spec"]["rewards"]] == ["brightness", "sharpness"]
    assert (job["spec"]["n"], job["spec"]["seed"]) == (50, 650)


def test_an_empty_table_says_what_to_do(client: TestClient, operator: dict[str, str]) -> None:
    page = client.get("/evaluation", headers=operator)
    assert "Start a finetune" in page.text


def seeds_on(page: str) -> list[int]:
    return [int(part.partition("<")[0]) for part in page.split('<th scope="row" class="num">')[1:]]


def test_a_development_set_is_sorted_and_paged_by_links_alone(
    client: TestClient, operator: dict[str, str], run: tuple[UUID, UUID, list[UUID]]
) -> None:
    _, job, _ = run
    page = client.get(f"/jobs/{job}/dev-set", headers=operator)
    assert page.status_code == 200
    assert seeds_on(page.text) == list(SEEDS)
    assert "epoch 2" in page.text
    by_after = client.get(f"/jobs/{job}/dev-set?sort=after&down=1&epoch=1", headers=operator).text
    assert seeds_on(by_after) == sorted(SEEDS, key=lambda seed: (-(seed % 5), seed))
    assert "+0.1" in by_after
    assert 'aria-sort="descending"' in by_after
    beyond = client.get(f"/jobs/{job}/dev-set?page=2", headers=operator).text
    assert "There is no such page" in beyond


def test_a_development_set_shows_the_reward_along_the_trajectory_of_its_own_epoch(
    client: TestClient, operator: dict[str, str], world: World, run: tuple[UUID, UUID, list[UUID]]
) -> None:
    _, job, _ = run
    rewards = [100.0 * place + step for place in range(6) for step in range(3)]
    with world.database.writer() as session:
        record_dev_trajectories(session, job, 2, [0.0] * 18)
        record_dev_trajectories(session, job, 2, rewards)  # an epoch that is repeated replaces its own
    page = client.get(f"/jobs/{job}/dev-set?epoch=2&sort=seed&down=1", headers=operator).text
    assert page.index("from 500 at the first step to 502 at the last") < page.index("from 100 at the first step")
    earlier = client.get(f"/jobs/{job}/dev-set?epoch=1", headers=operator).text
    assert "at the first step" not in earlier
    assert "eval.trajectory" in earlier


def test_a_development_set_says_what_is_missing(
    client: TestClient, operator: dict[str, str], world: World, run: tuple[UUID, UUID, list[UUID]]
) -> None:
    base, job, _ = run
    assert client.get(f"/jobs/{job}/dev-set?epoch=9", headers=operator).status_code == 404
    sampling = world.job()
    assert client.get(f"/jobs/{sampling}/dev-set", headers=operator).status_code == 409
    young, _ = world.finetune(base, [], spec={"checkpoint_id": str(base), "reward": [{"name": "brightness"}]})
    answer = client.get(f"/jobs/{young}/dev-set", headers=operator)
    assert answer.status_code == 404
    assert "not saved an epoch yet" in answer.text


def test_the_learning_curve_counts_every_sample(
    client: TestClient, operator: dict[str, str], world: World, run: tuple[UUID, UUID, list[UUID]]
) -> None:
    _, job, _ = run
    assert "No epoch is finished yet" in client.get(f"/jobs/{job}/learning", headers=operator).text
    epochs = [
        {"epoch": epoch, "lr": 1e-4 / epoch, "reward_mean": 0.5, "reward_min": 0.0, "reward_max": 1.0,
         "reward_histogram": [3, 0, 0, 1]}
        for epoch in (1, 2)
    ]  # fmt: skip
    world.add(
        *(
            JobEvent(job_id=job, seq=seq, kind=EventKind.METRICS, payload=payload, created_at=world.now)
            for seq, payload in enumerate(epochs, start=1)
        )
    )
    page = client.get(f"/jobs/{job}/learning", headers=operator).text
    assert page.count("<rect") == 4
    assert page.count("3 samples (75%)") == 2
    assert page.count("<polyline") == 3


def frames(data: bytes) -> Sequence[Image.Image]:
    with Image.open(io.BytesIO(data)) as image:
        found = []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            found.append(image.convert("RGB").copy())
        return found


def test_one_noise_along_its_checkpoints_is_one_picture(
    client: TestClient, operator: dict[str, str], world: World, run: tuple[UUID, UUID, list[UUID]]
) -> None:
    base, _, epochs = run
    sample = client.get("/api/v1/samples", params={"checkpoint_id": str(epochs[1]), "seed": 652}, headers=operator)
    id = sample.json()["items"][0]["id"]
    shown: dict[str, Any] = {}
    for format in ("webp", "gif", "png"):
        url = f"/api/v1/samples/{id}/transitions/image"
        answer = client.get(url, params={"format": format, "enlarge": 2}, headers=operator)
        assert answer.headers["content-type"] == f"image/{format}"
        shown[format] = frames(answer.content)
    assert len(shown["webp"]) == len(shown["gif"]) == 3
    first = client.get("/api/v1/samples", params={"checkpoint_id": str(base), "seed": 652}, headers=operator).json()
    stored = frames(client.get(first["items"][0]["links"]["image"], headers=operator).content)[0]
    assert np.array_equal(np.asarray(shown["webp"][0]), np.asarray(stored.resize((32, 32), Image.Resampling.NEAREST)))
    assert shown["png"][0].size == (3 * 32 + 4, 32)


def test_a_sheet_shows_seeds_in_order(
    client: TestClient, operator: dict[str, str], world: World, run: tuple[UUID, UUID, list[UUID]]
) -> None:
    base, _, _ = run
    url = f"/api/v1/checkpoints/{base}/sheet"
    answer = client.get(url, params={"n": 4, "seed": 652, "columns": 2}, headers=operator)
    assert answer.status_code == 200
    (whole,) = frames(answer.content)
    assert whole.size == (34, 34)
    found = client.get("/api/v1/samples", params={"checkpoint_id": str(base), "seed": 653}, headers=operator).json()
    stored = frames(client.get(found["items"][0]["links"]["image"], headers=operator).content)[0]
    assert np.array_equal(np.asarray(whole.crop((18, 0, 34, 16))), np.asarray(stored))
    nothing = client.get(url, params={"seed": 10_000}, headers=operator)
    assert nothing.status_code == 409
    assert "drawn no sample from seed 10000" in nothing.json()["detail"]
