"""The library: marks, the bin, retention, disk use; and what is purged is gone while everything else stays."""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from app.adapters.blobs import BlobStore
from app.config import Settings
from app.db.models import Checkpoint, Embedding, Job, Measurement, Sample, SampleReward
from app.db.session import Database
from app.domain.enums import JobKind, JobStatus, Role
from app.services import bin, library
from app.services.doctor import examine

Headers = dict[str, str]
URL = "/api/v1/checkpoints"


def ids_of(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]]


def age_blobs(settings: Settings) -> None:
    """As if everything had been stored two days before the tests' clock."""
    for path in Path(settings.blob_root).rglob("*"):
        if path.is_file():
            os.utime(path, (0, 0))


def test_checkpoints_are_found_by_star_tag_name_and_kind(client: TestClient, world: Any, operator: Headers) -> None:
    base, other = world.checkpoint("Critters"), world.checkpoint("church_256")
    _, [epoch] = world.finetune(base, [1])
    marks = {"starred": True, "tags": ["Paper", "paper", "horns"], "note": " the horns are back "}
    body = client.patch(f"{URL}/{epoch}", json=marks, headers=operator).json()
    assert (body["starred"], body["tags"], body["note"]) == (True, ["horns", "paper"], "the horns are back")
    kept = client.patch(f"{URL}/{epoch}", json={"note": ""}, headers=operator).json()
    assert (kept["starred"], kept["tags"], kept["note"]) == (True, ["horns", "paper"], "")
    for query, expected in (
        ({"starred": True}, [epoch]),
        ({"tag": "paper"}, [epoch]),
        ({"tag": "pap"}, []),
        ({"name": "CRIT"}, [base]),
        ({"name": "_"}, [other]),
        ({"name": "%"}, []),
        ({"kind": "base"}, [other, base]),
    ):
        assert ids_of(client.get(URL, params=query, headers=operator)) == [str(id) for id in expected], query


@pytest.mark.parametrize("marks", [{"tags": ["a,b"]}, {"tags": ["x" * 41]}, {"tags": [""]}, {"note": "\x00"}, {"x": 1}])
def test_wrong_marks_are_refused(client: TestClient, world: Any, operator: Headers, marks: dict[str, Any]) -> None:
    assert client.patch(f"{URL}/{world.checkpoint()}", json=marks, headers=operator).status_code == 422


def test_samples_are_found_by_star_and_tag(client: TestClient, world: Any, operator: Headers) -> None:
    base = world.checkpoint()
    samples = world.samples(base, range(5))
    client.patch(f"/api/v1/samples/{samples[3].id}", json={"starred": True, "tags": ["odd"]}, headers=operator)
    client.patch(f"/api/v1/samples/{samples[1].id}", json={"tags": ["odd"], "note": "three eyes"}, headers=operator)
    for query, expected in (({"starred": True}, {3}), ({"tag": "odd"}, {1, 3}), ({"tag": "even"}, set())):
        found = ids_of(client.get("/api/v1/samples", params=query, headers=operator))
        assert set(found) == {str(samples[index].id) for index in expected}
    assert client.get(f"/api/v1/samples/{samples[1].id}", headers=operator).json()["note"] == "three eyes"


def test_samples_in_order_of_a_reward_are_complete_over_pages(world: Any, walk: Any, client: TestClient) -> None:
    base, other = world.checkpoint(), world.checkpoint("other")
    values = [0.1, -3.5, 0.1, 0.1, 7.25, 1 / 3]
    samples = world.samples(base, range(6))
    world.samples(base, [99])
    world.add(*(SampleReward(sample_id=s.id, name="r", value=v) for s, v in zip(samples, values, strict=True)))
    world.add(SampleReward(sample_id=world.samples(other, [0])[0].id, name="r", value=100.0))
    for lowest in (False, True):
        found = walk("/api/v1/samples", reward="r", checkpoint_id=str(base), lowest=lowest)
        assert [item["rewards"]["r"] for item in found] == sorted(values, reverse=not lowest)
        assert len({item["id"] for item in found}) == 6


def test_marked_samples_are_complete_over_pages_in_both_orders(
    world: Any, walk: Any, client: TestClient, operator: Headers
) -> None:
    samples = world.samples(world.checkpoint(), range(9))
    starred = samples[::2]
    for sample in starred:
        client.patch(f"/api/v1/samples/{sample.id}", json={"starred": True, "tags": ["odd"]}, headers=operator)
    world.add(*(SampleReward(sample_id=sample.id, name="r", value=-1.0 * sample.seed) for sample in samples))
    newest = sorted(starred, key=lambda sample: (sample.created_at, sample.id), reverse=True)
    for query in ({"starred": True}, {"tag": "odd"}):
        assert [item["id"] for item in walk("/api/v1/samples", **query)] == [str(sample.id) for sample in newest]
        ranked = walk("/api/v1/samples", reward="r", **query)
        assert [item["seed"] for item in ranked] == [0, 2, 4, 6, 8]


def test_a_push_without_a_configured_token_is_refused_at_once(
    client: TestClient, world: Any, operator: Headers
) -> None:
    spec = {"checkpoint_id": str(world.checkpoint()), "repo_id": "lab/model"}
    answer = client.post("/api/v1/jobs", json={"kind": "push", "spec": spec}, headers=operator)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "spec.repo_id"
    assert "TASTEMAKER_HUB_TOKEN" in answer.json()["errors"][0]["message"]
    for wrong in ("model", "lab/../x", "a/b/c", "/lab/model"):
        answer = client.post("/api/v1/jobs", json={"kind": "push", "spec": spec | {"repo_id": wrong}}, headers=operator)
        assert answer.json()["errors"][0]["field"] == "spec.repo_id", wrong


def test_a_cursor_of_another_order_is_refused(client: TestClient, world: Any, operator: Headers) -> None:
    base = world.checkpoint()
    samples = world.samples(base, range(3))
    world.add(*(SampleReward(sample_id=sample.id, name="r", value=1.0) for sample in samples))
    newest = client.get("/api/v1/samples?limit=1", headers=operator).json()["next_cursor"]
    ranked = client.get("/api/v1/samples?limit=1&reward=r", headers=operator).json()["next_cursor"]
    assert client.get(f"/api/v1/samples?reward=r&cursor={newest}", headers=operator).status_code == 422
    assert client.get(f"/api/v1/samples?cursor={ranked}", headers=operator).status_code == 422


def test_what_something_depends_on_is_not_deleted_and_the_preview_says_why(
    client: TestClient, world: Any, operator: Headers
) -> None:
    base = world.checkpoint()
    world.finetune(base, [1])
    shown = world.checkpoint("shown")
    world.samples(shown, range(2))
    world.campaign(shown)
    drawn = world.checkpoint("drawn")
    world.job(JobKind.SAMPLE, JobStatus.RUNNING, spec={"checkpoint_id": str(drawn)}, name="drawing")
    used = world.checkpoint("used")
    world.job(JobKind.EVALUATE, JobStatus.SUCCEEDED, spec={"checkpoint_ids": [str(used)]}, name="measuring")
    cases = [(base, "checkpoint", True), (shown, "campaign", True), (drawn, "job", True), (used, "job", False)]
    for id, kind, blocks in cases:
        preview = client.get(f"{URL}/{id}/dependents", headers=operator).json()
        assert [(item["kind"], item["blocks"]) for item in preview["dependents"]] == [(kind, blocks)]
        assert preview["can_delete"] is not blocks
        answer = client.delete(f"{URL}/{id}", headers=operator)
        assert answer.status_code == (409 if blocks else 200)
        if blocks:
            assert preview["dependents"][0]["name"] in answer.json()["detail"]


def test_a_deleted_checkpoint_is_hidden_and_comes_back_whole(client: TestClient, world: Any, operator: Headers) -> None:
    base, other = world.checkpoint(), world.checkpoint("other")
    [sample] = world.samples(base, [1])
    world.samples(other, [1])
    before = client.get(f"{URL}/{base}", headers=operator).json()
    assert client.delete(f"{URL}/{base}", headers=operator).json()["deleted_at"] is not None
    assert client.get(f"{URL}/{base}", headers=operator).status_code == 404
    assert ids_of(client.get(URL, headers=operator)) == [str(other)]
    assert ids_of(client.get(URL, params={"deleted": True}, headers=operator)) == [str(base)]
    assert str(sample.id) not in ids_of(client.get("/api/v1/samples", headers=operator))
    spec = {"kind": "sample", "spec": {"checkpoint_id": str(base)}}
    assert client.post("/api/v1/jobs", json=spec, headers=operator).status_code == 422
    assert client.post(f"{URL}/{base}/restore", headers=operator).json() == before
    assert client.get(f"{URL}/{base}", headers=operator).json() == before


def test_a_child_comes_back_after_its_parent(client: TestClient, world: Any, operator: Headers) -> None:
    base = world.checkpoint()
    _, [epoch] = world.finetune(base, [1])
    for id in (epoch, base):
        assert client.delete(f"{URL}/{id}", headers=operator).status_code == 200
    assert client.post(f"{URL}/{epoch}/restore", headers=operator).status_code == 409
    assert client.post(f"{URL}/{base}/restore", headers=operator).status_code == 200
    assert client.post(f"{URL}/{epoch}/restore", headers=operator).status_code == 200


def test_the_bin_is_purged_when_its_days_are_over_and_only_what_nothing_needs(
    client: TestClient, world: Any, operator: Headers, database: Database, settings: Settings, clock: Any
) -> None:
    blobs = BlobStore(settings.blob_root)
    shared, own = blobs.put(b"shared"), blobs.put(b"own")
    gone = world.checkpoint("gone", manifest_sha256=blobs.put_json({"files": {"a": shared, "b": own}}))
    kept = world.checkpoint("kept", manifest_sha256=blobs.put_json({"files": {"a": shared}}))
    samples = world.samples(gone, range(3))
    world.samples(kept, range(3))
    twin = samples[0]
    world.add(
        Sample(
            checkpoint_id=kept, ordinal=3, seed=50, steps=10, eta=1.0, width=16, height=16, sha256=twin.sha256,
            created_at=world.now,
        ),
        Measurement(checkpoint_id=gone, name="r", mean=0.0, sem=1.0, n=3),
        SampleReward(sample_id=twin.id, name="r", value=1.0),
        *(Embedding(encoder="e", image_sha256=sample.sha256, vector=b"") for sample in samples),
    )  # fmt: skip
    with database.writer() as session:
        session.get_one(Checkpoint, kept).n_samples = 4
    n_orphans = examine(database, blobs).n_orphans
    client.patch(f"/api/v1/samples/{twin.id}", json={"starred": True}, headers=operator)
    clock.time = this_moment()
    client.delete(f"{URL}/{gone}", headers=operator)
    clock.advance(hours=settings.undo_delete_hours - 1)
    age_blobs(settings)
    assert bin.purge_due(database, blobs, settings, clock.now()) == 0
    clock.advance(hours=2)
    assert bin.purge_due(database, blobs, settings, clock.now()) == 1
    with database.reader() as session:
        assert session.get(Checkpoint, gone) is None
        assert session.scalar(select(func.count()).select_from(Sample)) == 4
        assert session.scalars(select(Embedding.image_sha256)).all() == [twin.sha256]
    there = {name: blobs.exists(name) for name in (own, shared, twin.sha256, samples[1].sha256)}
    assert there == {own: False, shared: True, twin.sha256: True, samples[1].sha256: False}
    diagnosis = examine(database, blobs)
    assert (diagnosis.problems, diagnosis.n_orphans) == ([], n_orphans)
    assert client.post(f"{URL}/{gone}/restore", headers=operator).status_code == 404


def this_moment() -> datetime:
    """The machine's clock, which files are stamped by."""
    return datetime.fromtimestamp(time.time(), UTC)


def test_a_blob_stored_again_just_now_survives_the_purge(
    client: TestClient, world: Any, operator: Headers, database: Database, settings: Settings, clock: Any
) -> None:
    blobs = BlobStore(settings.blob_root)
    file = blobs.put(b"weights")
    gone = world.checkpoint("gone", manifest_sha256=blobs.put_json({"files": {"a": file}}))
    clock.time = this_moment()
    client.delete(f"{URL}/{gone}", headers=operator)
    age_blobs(settings)
    assert blobs.put(b"weights") == file  # a job stores the same file for a row that it has not written yet
    now = clock.now() + timedelta(seconds=1)
    at_once = settings.model_copy(update={"undo_delete_hours": 0})
    assert bin.purge_due(database, blobs, at_once, now) == 1
    assert blobs.exists(file)


def test_what_came_to_depend_on_a_deleted_checkpoint_keeps_it_from_being_purged(
    client: TestClient, world: Any, operator: Headers, database: Database, settings: Settings, clock: Any
) -> None:
    base = world.checkpoint()
    world.samples(base, range(2))
    client.delete(f"{URL}/{base}", headers=operator)
    world.campaign(base)  # as by a request that was under way
    later = clock.now() + timedelta(hours=settings.undo_delete_hours + 1)
    assert bin.purge_due(database, BlobStore(settings.blob_root), settings, later) == 0
    assert client.post(f"{URL}/{base}/restore", headers=operator).status_code == 200


def test_retention_keeps_what_it_says_and_deletes_only_what_was_previewed(
    client: TestClient, world: Any, operator: Headers, clock: Any
) -> None:
    base = world.checkpoint()
    job, epochs = world.finetune(base, range(1, 11))
    world.finetune(epochs[1], [1])  # epoch 2 has a child
    client.patch(f"{URL}/{epochs[2]}", json={"starred": True}, headers=operator)
    _, running = world.finetune(base, [1, 2, 3])
    with world.database.writer() as session:
        session.get_one(Job, session.get_one(Checkpoint, running[0]).job_id).status = JobStatus.RUNNING
        session.get_one(Job, job).result = {"checkpoint_id": str(epochs[6])}
    clock.advance(hours=48)
    rule = {"keep_every": 4, "keep_last": 2, "min_age_hours": 24}
    preview = client.get("/api/v1/library/retention/preview", params=rule, headers=operator).json()
    why = {item["epoch"]: item["why"] for item in preview["decisions"] if item["job_id"] == str(job)}
    assert [epoch for epoch, reason in why.items() if not reason] == [1, 5, 6]
    assert why[2].endswith("was finetuned from it")
    assert why[3] == "starred, tagged or noted"
    assert (why[4], why[8]) == ("every 4th epoch", "every 4th epoch")
    assert why[7] == "its run's result"
    assert (why[9], why[10]) == ("one of the run's last 2", "one of the run's last 2")
    assert {item["why"] for item in preview["decisions"] if item["checkpoint_id"] in map(str, running)} == {
        "its run has not ended"
    }
    going = [item["checkpoint_id"] for item in preview["decisions"] if not item["keep"]]
    body = {"rule": rule, "checkpoint_ids": [*going[:2], str(epochs[9])]}
    applied = client.post("/api/v1/library/retention/apply", json=body, headers=operator).json()
    assert applied["deleted"] == going[:2]
    assert sorted(ids_of(client.get(f"{URL}?deleted=true", headers=operator))) == sorted(going[:2])


def test_the_tags_that_a_run_gives_to_all_it_saves_keep_none_of_it_and_others_do(
    client: TestClient, world: Any, operator: Headers, clock: Any
) -> None:
    job, epochs = world.finetune(world.checkpoint(), [1, 2, 3], spec={"reward": [{"name": "brightness"}]})
    with world.database.writer() as session:
        for id in epochs:
            session.get_one(Checkpoint, id).tags = ["brightness"]
    client.patch(f"{URL}/{epochs[1]}", json={"tags": ["brightness", "paper"]}, headers=operator)
    clock.advance(hours=48)
    preview = client.get("/api/v1/library/retention/preview?keep_last=1", headers=operator).json()
    assert [(item["epoch"], item["why"]) for item in preview["decisions"] if item["job_id"] == str(job)] == [
        (1, ""),
        (2, "starred, tagged or noted"),
        (3, "the run's last epoch"),
    ]


def test_a_retention_form_that_names_no_checkpoint_is_refused(client: TestClient, operator: Headers) -> None:
    form = {"keep_last": "1", "action": "apply", "checkpoint_id": "all"}
    assert client.post("/storage/retention", data=form, headers=operator).status_code == 422


def test_states_of_runs_that_succeeded_long_ago_are_let_go_and_others_stay(
    client: TestClient, world: Any, operator: Headers, database: Database, settings: Settings, clock: Any
) -> None:
    blobs, base = BlobStore(settings.blob_root), world.checkpoint()
    shas = [blobs.put(f"state {number}".encode()) for number in range(3)]
    ages = (timedelta(days=40), timedelta(days=40), timedelta(days=2))
    statuses = (JobStatus.SUCCEEDED, JobStatus.CANCELLED, JobStatus.SUCCEEDED)  # a cancelled one is there to be resumed
    jobs = [world.finetune(base, [1])[0] for _ in shas]
    with database.writer() as session:
        for id, sha256, age, status in zip(jobs, shas, ages, statuses, strict=True):
            job = session.get_one(Job, id)
            job.resume_sha256, job.finished_at, job.status = sha256, clock.now() - age, status
    url, rule = "/api/v1/library/retention", {"keep_states_days": 30}
    assert client.get(f"{url}/preview", headers=operator).json()["n_states"] == 0
    assert client.get(f"{url}/preview", params=rule, headers=operator).json()["n_states"] == 1
    body = {"rule": rule, "checkpoint_ids": []}
    assert client.post(f"{url}/apply", json=body, headers=operator).json()["n_states"] == 0
    assert client.post(f"{url}/apply", json=body | {"states": True}, headers=operator).json()["n_states"] == 1
    assert [blobs.exists(sha256) for sha256 in shas] == [False, True, True]
    refused = client.post(f"/api/v1/jobs/{jobs[0]}/extend", json={"epochs": 50}, headers=operator)
    assert (refused.status_code, "kept no state" in refused.json()["detail"]) == (409, True)

    client.put(url, json={"keep_states_days": 1, "automatic": True}, headers=operator)
    library.apply_automatically(database, blobs, clock.now())
    assert [blobs.exists(sha256) for sha256 in shas] == [False, True, False]
    assert client.get("/storage?preview=1&keep_states_days=1", headers=operator).status_code == 200


def test_an_automatic_rule_acts_by_itself_and_another_does_not(
    client: TestClient, world: Any, operator: Headers, database: Database, settings: Settings, clock: Any
) -> None:
    _, epochs = world.finetune(world.checkpoint(), [1, 2, 3])
    clock.advance(hours=30)
    for automatic, expected in ((False, 0), (True, 2)):
        rule = {"keep_last": 1, "automatic": automatic}
        assert client.put("/api/v1/library/retention", json=rule, headers=operator).status_code == 200
        assert library.apply_automatically(database, BlobStore(settings.blob_root), clock.now()) == expected
    assert client.get("/api/v1/library/retention", headers=operator).json()["automatic"] is True
    assert set(ids_of(client.get(f"{URL}?deleted=true", headers=operator))) == {str(id) for id in epochs[:2]}


def test_disk_use_is_what_lies_on_the_disk(
    client: TestClient, world: Any, operator: Headers, database: Database, settings: Settings, clock: Any
) -> None:
    blobs = BlobStore(settings.blob_root)
    base = world.checkpoint(manifest_sha256=blobs.put_json({"files": {"a": blobs.put(b"x" * 1000)}}))
    world.samples(base, range(4))
    assert client.get("/api/v1/library/storage", headers=operator).json()["blob_bytes"] is None
    library.tidy(database, blobs, settings, clock.now())
    use = client.get("/api/v1/library/storage", headers=operator).json()
    files = [path for path in Path(settings.blob_root).rglob("*") if path.is_file()]
    assert (use["n_blobs"], use["blob_bytes"]) == (len(files), sum(path.stat().st_size for path in files))
    assert (use["checkpoint_bytes"], use["n_checkpoints"], use["n_samples"]) == (1000, 1, 4)
    assert client.get(f"{URL}/{base}", headers=operator).json()["n_bytes"] == 1000
    assert 0 < use["disk_free_bytes"] < use["disk_total_bytes"]


def test_raters_may_not_touch_the_library(client: TestClient, world: Any, sign_in: Any) -> None:
    rater, base = sign_in(Role.RATER), world.checkpoint()
    for method, path in (
        ("DELETE", f"{URL}/{base}"), ("POST", f"{URL}/{base}/restore"), ("PATCH", f"{URL}/{base}"),
        ("GET", f"{URL}/{base}/dependents"), ("GET", "/api/v1/library/storage"), ("PUT", "/api/v1/library/retention"),
        ("POST", "/api/v1/library/retention/apply"), ("PATCH", f"/api/v1/samples/{UUID(int=1)}"),
    ):  # fmt: skip
        assert client.request(method, path, json={}, headers=rater).status_code == 403, path
