"""/checkpoints: the library, registering a base safely, lineage, download."""

import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient

from app.config import Settings
from app.db.models import LabelSnapshot, Measurement, RewardModel
from app.domain.bundled import BUNDLED
from app.domain.enums import JobKind, JobStatus

UNKNOWN = UUID(int=7)  # an id that nothing has

Headers = dict[str, str]
URL = "/api/v1/checkpoints"
ON_SQLITE_ALONE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For tests in which no SQL of interest runs."""


def register(client: TestClient, headers: Headers, source: str, name: str = "mine") -> Any:
    return client.post(URL, json={"name": name, "source": source}, headers=headers)


def test_the_list_is_newest_first_and_complete_over_pages(world: Any, walk: Any) -> None:
    ids = [str(world.checkpoint(f"base {n}")) for n in range(5)]
    assert [item["id"] for item in walk(URL)] == ids[::-1]


def test_pages_are_complete_where_all_times_are_equal(world: Any, walk: Any) -> None:
    ids = {str(world.checkpoint(f"base {n}", created_at=world.now)) for n in range(5)}
    found = [item["id"] for item in walk(URL)]
    assert len(found) == 5
    assert set(found) == ids


def test_children_can_be_listed_alone(world: Any, walk: Any) -> None:
    base = world.checkpoint()
    _, epochs = world.finetune(base, [1, 2])
    assert [item["id"] for item in walk(URL, parent_id=str(base))] == [str(id) for id in epochs[::-1]]


def test_a_checkpoint_shows_its_measurements(client: TestClient, world: Any, operator: Headers) -> None:
    base = world.checkpoint(tags=["good"], diversity=2.5)
    world.add(Measurement(checkpoint_id=base, name="brightness", mean=0.5, sem=0.01, n=16))
    body = client.get(f"{URL}/{base}", headers=operator).json()
    assert body["rewards"] == {"brightness": {"mean": 0.5, "sem": 0.01, "n": 16}}
    assert (body["kind"], body["tags"], body["diversity"], body["parent_id"]) == ("base", ["good"], 2.5, None)


@ON_SQLITE_ALONE
@pytest.mark.parametrize("path", [f"/{UNKNOWN}", f"/{UNKNOWN}/lineage", f"/{UNKNOWN}/download"])
def test_an_unknown_checkpoint_is_404(client: TestClient, operator: Headers, path: str) -> None:
    answer = client.get(URL + path, headers=operator)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


@ON_SQLITE_ALONE
@pytest.mark.parametrize("id", ["..", "..%2f..", "%2e%2e", "1", "a#b", "..%5c"])
def test_an_id_that_is_no_uuid_finds_nothing(client: TestClient, operator: Headers, id: str) -> None:
    assert client.get(f"{URL}/{id}", headers=operator).status_code in (404, 422)


def test_the_bundled_model_is_registered_once(client: TestClient, operator: Headers) -> None:
    answer = register(client, operator, "critters-64", "critters-64")
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert answer.headers["location"] == f"{URL}/{body['id']}"
    assert (body["kind"], body["image_size"], body["n_samples"]) == ("base", 64, 0)
    assert client.get(answer.headers["location"], headers=operator).json() == body
    again = register(client, operator, "critters-64", "critters-64")
    assert again.status_code == 409
    assert "critters-64" in again.json()["detail"]
    assert register(client, operator, "critters-64", "another name").status_code == 201


@ON_SQLITE_ALONE
def test_a_download_is_the_folder_that_was_registered(client: TestClient, operator: Headers) -> None:
    id = register(client, operator, "critters-64").json()["id"]
    answer = client.get(f"{URL}/{id}/download", headers=operator)
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        for name in archive.namelist():
            assert archive.read(name) == (BUNDLED["critters-64"] / name).read_bytes()
        assert "unet/diffusion_pytorch_model.safetensors" in archive.namelist()
    assert client.get(f"{URL}/{id}/download", headers=operator).content == answer.content


@pytest.fixture
def models(settings: Settings) -> Path:
    """The models folder with one good model in it."""
    settings.models_root.mkdir(parents=True)
    shutil.copytree(BUNDLED["critters-64"], settings.models_root / "lab" / "good")
    return settings.models_root


@ON_SQLITE_ALONE
def test_a_folder_inside_the_models_folder_can_be_registered(
    client: TestClient, operator: Headers, models: Path
) -> None:
    answer = register(client, operator, "lab/good")
    assert answer.status_code == 201, answer.text
    assert answer.json()["source"] == "lab/good"


@ON_SQLITE_ALONE
@pytest.mark.parametrize(
    "source",
    [
        "../models/lab/good", "lab/../../secret", "/etc", "lab\\good", "lab/%2e%2e/x", "lab/good#x", "~root", ".",
        "lab/./good", "lab//good", "lab/good/", "C:good", "file:///etc/passwd", "http://169.254.169.254/latest",
        "lab/good\n", "lab/\u2025/x", ".hidden",
    ],
)  # fmt: skip
def test_a_path_that_is_not_plain_is_refused(client: TestClient, operator: Headers, models: Path, source: str) -> None:
    answer = register(client, operator, source)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["source"]


@ON_SQLITE_ALONE
def test_a_link_out_of_the_models_folder_is_refused(
    client: TestClient, operator: Headers, models: Path, tmp_path: Path
) -> None:
    shutil.copytree(models / "lab" / "good", tmp_path / "outside")
    (models / "link").symlink_to(tmp_path / "outside")
    answer = register(client, operator, "link")
    assert answer.status_code == 422
    assert "link" in answer.json()["detail"]


@ON_SQLITE_ALONE
def test_a_name_that_is_nowhere_says_what_there_is(client: TestClient, operator: Headers, models: Path) -> None:
    answer = register(client, operator, "nothing-here")
    assert answer.status_code == 422
    assert "critters-64" in answer.json()["detail"]


@ON_SQLITE_ALONE
def test_a_pickle_in_a_checkpoint_is_refused_by_name(client: TestClient, operator: Headers, models: Path) -> None:
    (models / "lab" / "good" / "unet" / "weights.bin").write_bytes(b"\x80\x04.")
    answer = register(client, operator, "lab/good")
    assert answer.status_code == 422
    assert "weights.bin" in answer.json()["detail"]


@ON_SQLITE_ALONE
def test_a_torn_checkpoint_is_refused_by_name(client: TestClient, operator: Headers, models: Path) -> None:
    weights = models / "lab" / "good" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    answer = register(client, operator, "lab/good")
    assert answer.status_code == 422
    assert "diffusion_pytorch_model.safetensors" in answer.json()["detail"]


@ON_SQLITE_ALONE
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "", "source": "x"}, "name"),
        ({"name": "   ", "source": "x"}, "name"),
        ({"name": "n" * 121, "source": "x"}, "name"),
        ({"name": "n"}, "source"),
        ({"name": "n", "source": "x", "path": "/etc"}, "path"),
    ],
)
def test_a_wrong_registration_names_the_field(
    client: TestClient, operator: Headers, body: dict[str, Any], field: str
) -> None:
    answer = client.post(URL, json=body, headers=operator)
    assert answer.status_code == 422
    assert field in [error["field"] for error in answer.json()["errors"]]


def test_lineage_walks_to_the_votes_and_back_to_the_base(client: TestClient, world: Any, operator: Headers) -> None:
    base = world.checkpoint()
    campaign = world.campaign(base)
    learning = world.job(JobKind.REWARD_MODEL, JobStatus.SUCCEEDED)
    snapshot = LabelSnapshot(
        id=uuid4(), campaign_id=campaign, sha256=world.blobs.put(b"votes"), n_labels=300, created_at=world.now
    )
    model = RewardModel(
        id=uuid4(), job_id=learning, campaign_id=campaign, snapshot_id=snapshot.id, name="taste", encoder="e",
        blob_sha256="0" * 64, n_labels=300, accuracy=0.9, report={}, created_at=world.now,
    )  # fmt: skip
    world.add(snapshot, model)
    spec = {"reward": [{"name": "preference", "reward_model_id": str(model.id)}]}
    first_job, (early, late) = world.finetune(base, [1, 2], spec=spec)
    second_job, (tuned,) = world.finetune(late, [1], spec={"reward": [{"name": "brightness"}]})

    lineage = client.get(f"{URL}/{tuned}/lineage", headers=operator).json()
    assert (lineage["checkpoint"]["id"], lineage["job"]["id"]) == (str(tuned), str(second_job))
    assert lineage["reward_models"] == []
    parent, root = lineage["ancestors"]
    assert (parent["checkpoint"]["id"], parent["job"]["id"]) == (str(late), str(first_job))
    assert parent["reward_models"][0]["id"] == str(model.id)
    assert parent["reward_models"][0]["label_snapshot"] == {
        "id": str(snapshot.id), "sha256": snapshot.sha256, "n_labels": 300,
    }  # fmt: skip
    assert parent["reward_models"][0]["campaign"]["id"] == str(campaign)
    assert (root["checkpoint"]["id"], root["job"]) == (str(base), None)

    below = client.get(f"{URL}/{base}/lineage", headers=operator).json()
    assert below["ancestors"] == []
    assert {item["id"] for item in below["descendants"]} == {str(early), str(late), str(tuned)}


@ON_SQLITE_ALONE
def test_a_tampered_blob_breaks_the_download(
    client: TestClient, world: Any, operator: Headers, settings: Settings
) -> None:
    data = json.dumps({"x": 1}).encode()
    digest = world.blobs.put(data)
    manifest = world.blobs.put_json({"files": {"model_index.json": digest}})
    id = world.checkpoint(manifest_sha256=manifest)
    path = Path(settings.blob_root) / digest[:2] / digest
    path.write_bytes(data[:-1] + b" ")
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(io.BytesIO(client.get(f"{URL}/{id}/download", headers=operator).content))
