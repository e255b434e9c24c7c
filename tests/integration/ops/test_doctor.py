"""`tastemaker doctor` finds each kind of damage, and nothing in a healthy installation."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from ops_world import World, build_world
from sqlalchemy import delete, text, update
from sqlalchemy.orm import Session

from app.adapters.blobs import BlobStore
from app.adapters.clock import Clock
from app.db.models import Campaign, Checkpoint, Comparison, Job, JobEvent, LabelSnapshot, Pair, Preference, Sample
from app.db.session import Database
from app.services.doctor import examine
from tests.object_store import ObjectStore


@pytest.mark.parametrize("blobs", ["folder", "bucket"], indirect=True)
def test_a_healthy_installation_has_no_problems_and_orphans_are_told_apart(
    database: Database, blobs: BlobStore, world: World
) -> None:
    blobs.put(b"left by a job that was stopped")
    blobs.check()  # the readiness probe's blob is no orphan
    found = examine(database, blobs)
    assert found.problems == []
    assert (found.n_blobs, found.n_orphans, found.orphan_bytes) == (world.n_blobs, 1, 30)


def _set(model: type, **values: object) -> Callable[[Session, World], None]:
    return lambda session, world: session.execute(update(model).values(**values)) and None


DAMAGES: dict[str, tuple[Callable[[Session, World], object], str]] = {
    "gap": (lambda s, w: s.execute(delete(JobEvent).where(JobEvent.seq == 1)), "log with gaps"),
    "count": (_set(Job, last_event_seq=7), "log with gaps"),
    "pair": (_set(Pair, n_leased=2), "pairs count other leases"),
    "campaign": (_set(Campaign, n_leased=1), "campaigns count other leases"),
    "budget": (_set(Campaign, budget=1), "passed their budget"),
    "no vote": (lambda s, w: s.execute(delete(Preference)), "a vote that is not there"),
    "given back": (_set(Comparison, expired=True), "do not belong to a closed comparison"),
    "sides": (
        lambda s, w: s.execute(update(Comparison).values(left_sample_id=w.sample_ids[1])),
        "showed other samples",
    ),
    "ordinals": (_set(Checkpoint, n_samples=1), "more samples than they count"),
    "labels": (_set(LabelSnapshot, n_labels=5), "should hold 5 labels and holds 1"),
    "image": (_set(Sample, sha256="0" * 64), "The image of sample"),
    "analysis": (_set(Job, result={"analysis_sha256": "2" * 64}), "The analysis of job"),
    "state": (_set(Job, resume_sha256="1" * 64), "The resumable state of job"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_each_kind_of_damage_is_found_and_named(name: str, database: Database, blobs: BlobStore, world: World) -> None:
    damage, sentence = DAMAGES[name]
    with database.writer() as session:
        damage(session, world)
    problems = examine(database, blobs).problems
    assert any(sentence in problem for problem in problems), problems


def test_a_row_whose_parent_is_gone_is_found(
    sqlite_database_url: str, blobs_of: Callable[[Path], BlobStore], tmp_path: Path
) -> None:
    database = Database(sqlite_database_url)
    with database.engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
        connection.exec_driver_sql("BEGIN")
        insert = text("INSERT INTO measurement (checkpoint_id, name, mean, sem, n) VALUES (:id, 'warm', 0, 0, 1)")
        connection.execute(insert, {"id": uuid4().hex})
        connection.commit()
    (problem,) = examine(database, blobs_of(tmp_path / "blobs")).problems
    assert "1 rows of measurement name a checkpoint (checkpoint_id) that is not there" in problem
    database.dispose()


@pytest.mark.parametrize("blobs", ["folder", "bucket"], indirect=True)
def test_torn_files_of_a_checkpoint_are_found_through_its_manifest(
    database: Database, blobs: BlobStore, world: World
) -> None:
    with database.reader() as session:
        manifest = session.get_one(Checkpoint, world.checkpoint_id).manifest_sha256
    weights = blobs.get_json(manifest)["files"]["unet/weights.safetensors"]
    blobs._fs.pipe_file(blobs._path(weights), blobs.get(weights)[:-1] + b"\0")
    (torn,) = examine(database, blobs).problems
    assert "does not match its hash" in torn
    assert str(world.checkpoint_id) in torn
    blobs.delete(weights)
    (missing,) = examine(database, blobs).problems
    assert "There is no blob" in missing


def _run(data_dir: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("TASTEMAKER_")}
    environment = kept | {"TASTEMAKER_DATA_DIR": str(data_dir), "COLUMNS": "200"} | settings
    return subprocess.run([sys.executable, "-m", "app.cli", *words], env=environment, capture_output=True, text=True)


def test_the_commands_copy_restore_and_judge(
    sqlite_database_url: str, folder_blobs: BlobStore, clock: Clock, tmp_path: Path, object_store: ObjectStore
) -> None:
    """From a folder into a bucket; `tmp_path` is the first installation's data folder."""
    build_world(database := Database(sqlite_database_url), folder_blobs, clock)
    database.dispose()
    second, backup_file = tmp_path / "second", str(tmp_path / "b.tar")
    bucket = {
        "TASTEMAKER_BLOB_URL": f"s3://{object_store.new_bucket()}",
        "TASTEMAKER_BLOB_ENDPOINT_URL": object_store.url,
    }
    made = _run(tmp_path, "backup", backup_file)
    assert (made.returncode, made.stderr) == (0, "")
    assert _run(second, "restore", backup_file, **bucket).returncode == 0
    healthy = _run(second, "doctor", **bucket)
    assert (healthy.returncode, healthy.stdout.splitlines()[-1]) == (0, "Everything is whole."), healthy.stderr
    assert not (second / "blobs").exists()
    again = _run(second, "restore", backup_file, **bucket)
    assert again.returncode == 1
    assert "--force" in again.stderr
    away = _run(second, "doctor", **bucket | {"TASTEMAKER_BLOB_URL": "s3://never-made"})
    assert away.returncode == 1
    assert away.stderr == (
        f"tastemaker: The blob store s3://never-made at {object_store.url} cannot be used: there is no bucket "
        "'never-made'. Make it, or correct TASTEMAKER_BLOB_URL.\n"
    )
    (second / "tastemaker.sqlite3").unlink()
    sick = _run(second, "doctor", **bucket)
    assert sick.returncode == 1
    assert "tastemaker migrate" in sick.stderr
