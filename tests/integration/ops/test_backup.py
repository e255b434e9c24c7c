"""Backup and restore: the same rows and blobs on either database, from a system at work, and never half of one."""

import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ops_world import World, build_world
from sqlalchemy import inspect, select

from app.adapters.blobs import BlobStore
from app.adapters.clock import Clock
from app.db.base import Base
from app.db.migrate import migrate
from app.db.models import Checkpoint, Comparison, Job, JobEvent, Preference
from app.db.queries import jobs as job_queries
from app.db.queries.portable_rows import current_tables
from app.db.session import Database
from app.domain.enums import EventKind
from app.domain.errors import ConflictError, CorruptDataError, UnavailableError
from app.services.backup import back_up
from app.services.doctor import examine
from app.services.restore import restore
from tests.object_store import ObjectStore


def _rows(database: Database) -> dict[str, list[dict[str, Any]]]:
    with database.reader() as session:
        return {
            table.name: sorted((dict(row) for row in session.execute(select(table)).mappings()), key=str)
            for table in Base.metadata.sorted_tables
        }


@pytest.mark.parametrize(
    ("database_url", "blobs", "kind", "store"),
    [
        ("sqlite", "folder", "sqlite", "folder"),
        pytest.param("sqlite", "folder", "postgres", "bucket", marks=pytest.mark.postgres),
        pytest.param("postgres", "bucket", "sqlite", "folder", marks=pytest.mark.postgres),
    ],
    indirect=["database_url", "blobs"],
)
def test_a_backup_restores_the_same_rows_and_blobs_on_either_database_and_store(
    kind: str,
    store: str,
    database: Database,
    blobs: BlobStore,
    world: World,
    clock: Clock,
    backup_file: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    report = back_up(database, blobs, backup_file, clock.now())
    assert (report.n_blobs, report.damaged) == (world.n_blobs, [])
    assert backup_file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name or "backup-" in path.name] == []

    if kind == "postgres":
        target_url = request.getfixturevalue("postgres_database_url")
    else:
        target_url = f"sqlite:///{tmp_path / 'other.sqlite3'}"  # never migrated: restore makes the tables
    target = Database(target_url)
    if store == "bucket":
        target_blobs = request.getfixturevalue("bucket_blobs")
    else:
        target_blobs = BlobStore(str(tmp_path / "other-blobs"))
    restored = restore(target, target_blobs, backup_file)

    assert restored.n_blobs == world.n_blobs
    assert _rows(target) == _rows(database)
    diagnosis = examine(target, target_blobs)
    assert (diagnosis.problems, diagnosis.n_blobs, diagnosis.n_orphans) == ([], world.n_blobs, 0)
    target.dispose()


def test_a_backup_made_while_votes_and_events_arrive_is_one_moment(
    database: Database, blobs: BlobStore, world: World, clock: Clock, backup_file: Path, tmp_path: Path
) -> None:
    began, stop = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def write_events() -> None:
        try:
            while not stop.is_set():
                with database.writer() as session:
                    job_queries.append_event(session, world.job_id, EventKind.LOG, {"message": "x"}, clock.now())
                began.set()
        except BaseException as error:
            failures.append(error)
            began.set()

    writer = threading.Thread(target=write_events)
    writer.start()
    try:
        assert began.wait(20)
        back_up(database, blobs, backup_file, clock.now())
    finally:
        stop.set()
        writer.join()
    assert failures == []
    target, target_blobs = Database(f"sqlite:///{tmp_path / 'other.sqlite3'}"), BlobStore(str(tmp_path / "other-blobs"))
    restore(target, target_blobs, backup_file)
    assert examine(target, target_blobs).problems == []  # the log's count and the job's agree
    with target.reader() as session:
        assert session.get_one(Job, world.job_id).last_event_seq > 2
    target.dispose()


def test_a_resumable_state_that_is_replaced_meanwhile_is_read_again(
    database: Database, blobs: BlobStore, world: World, clock: Clock, backup_file: Path
) -> None:
    newer = blobs.put(b"newer state")

    class ReplacedOnFirstLook(BlobStore):
        """A job replaces its state between the rows being read and the blob being copied."""

        def download(self, digest: str, target: Path) -> None:
            if digest == world.resume_sha256 and self.exists(digest):
                with database.writer() as session:
                    job_queries.set_resume_state(session, world.job_id, newer)
                self.delete(digest)
            super().download(digest, target)

    report = back_up(database, ReplacedOnFirstLook(blobs._root), backup_file, clock.now())
    assert report.damaged == []
    with tarfile.open(backup_file) as archive:
        names = set(archive.getnames())
    assert f"blobs/{newer}" in names
    assert f"blobs/{world.resume_sha256}" not in names


@pytest.mark.parametrize("blobs", ["folder", "bucket"], indirect=True)
def test_a_missing_or_torn_blob_is_named_and_the_rest_is_saved(
    database: Database, blobs: BlobStore, world: World, clock: Clock, backup_file: Path, tmp_path: Path
) -> None:
    with database.reader() as session:
        lost = session.get_one(Checkpoint, world.finetuned_id).manifest_sha256
    weights = blobs.get_json(lost)["files"]["unet/weights.safetensors"]
    blobs._fs.pipe_file(blobs._path(weights), b"torn")
    report = back_up(database, blobs, backup_file, clock.now())
    assert len(report.damaged) == 1
    assert str(world.finetuned_id) in report.damaged[0]
    target = Database(f"sqlite:///{tmp_path / 'other.sqlite3'}")
    restored = restore(target, BlobStore(str(tmp_path / "other-blobs")), backup_file)
    assert restored.damaged == report.damaged
    assert restored.n_blobs == world.n_blobs - 1
    target.dispose()


def test_restore_refuses_a_database_with_rows_and_replaces_them_only_by_force(
    database: Database, blobs: BlobStore, world: World, clock: Clock, backup_file: Path
) -> None:
    back_up(database, blobs, backup_file, clock.now())
    before = _rows(database)
    with database.writer() as session:
        session.add(JobEvent(job_id=world.job_id, seq=3, kind=EventKind.LOG, payload={}, created_at=clock.now()))
    with pytest.raises(ConflictError, match="not empty"):
        restore(database, blobs, backup_file)
    restore(database, blobs, backup_file, force=True)
    assert _rows(database) == before


def test_a_bucket_that_cannot_be_reached_leaves_no_backup_and_the_database_as_it_was(
    sqlite_database_url: str, folder_blobs: BlobStore, clock: Clock, backup_file: Path, object_store: ObjectStore
) -> None:
    database, away = Database(sqlite_database_url), BlobStore("s3://never-made", endpoint_url=object_store.url)
    build_world(database, folder_blobs, clock)
    with pytest.raises(UnavailableError, match="there is no bucket"):
        back_up(database, away, backup_file, clock.now())
    assert list(backup_file.parent.glob("*backup*")) == []
    back_up(database, folder_blobs, backup_file, clock.now())
    before = _rows(database)
    with pytest.raises(UnavailableError, match="there is no bucket"):
        restore(database, away, backup_file, force=True)
    assert _rows(database) == before
    with pytest.raises(UnavailableError, match="there is no bucket"):
        examine(database, away)
    database.dispose()


def _rewrite(source: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Copy a tar file member by member; None leaves one out."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old:
            content = old.extractfile(member)
            assert content is not None
            data = change(member.name, content.read())
            if data is not None:
                entry = tarfile.TarInfo(member.name)
                entry.size = len(data)
                new.addfile(entry, io.BytesIO(data))


def _cut_off(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes()[: source.stat().st_size // 2])


def _without_end(source: Path, target: Path) -> None:
    _rewrite(source, target, lambda name, data: None if name == "end.json" else data)


def _with_changed_vote(source: Path, target: Path) -> None:
    _rewrite(
        source,
        target,
        lambda name, data: data.replace(b'"left"', b'"right"') if name == "tables/preference.jsonl" else data,
    )


def _with_changed_blob(source: Path, target: Path) -> None:
    _rewrite(source, target, lambda name, data: data + b"!" if name.startswith("blobs/") else data)


def _with_foreign_member(source: Path, target: Path) -> None:
    _rewrite(source, target, lambda name, data: data)
    with tarfile.open(target, "a") as archive:
        archive.addfile(tarfile.TarInfo("../../etc/passwd"))


def _no_tar(source: Path, target: Path) -> None:
    target.write_bytes(b"hello" * 1000)


@pytest.mark.parametrize(
    "damage", [_cut_off, _without_end, _with_changed_vote, _with_changed_blob, _with_foreign_member, _no_tar]
)
def test_a_damaged_backup_is_refused_and_leaves_the_database_as_it_was(
    damage: Callable[[Path, Path], None],
    database: Database,
    blobs: BlobStore,
    world: World,
    clock: Clock,
    backup_file: Path,
    tmp_path: Path,
) -> None:
    back_up(database, blobs, backup_file, clock.now())
    before = _rows(database)
    damaged = tmp_path / "damaged.tar"
    damage(backup_file, damaged)
    with pytest.raises(CorruptDataError):
        restore(database, blobs, damaged, force=True)
    assert _rows(database) == before


def test_a_backup_of_a_newer_version_is_refused(
    sqlite_database_url: str, blobs_of: Callable[[Path], BlobStore], clock: Clock, backup_file: Path, tmp_path: Path
) -> None:
    database, blobs = Database(sqlite_database_url), blobs_of(tmp_path / "blobs")
    build_world(database, blobs, clock)
    back_up(database, blobs, backup_file, clock.now())

    def newer(name: str, data: bytes) -> bytes:
        return json.dumps(json.loads(data) | {"revision": "9999"}).encode() if name == "backup.json" else data

    changed = tmp_path / "newer.tar"
    _rewrite(backup_file, changed, newer)
    with pytest.raises(ConflictError, match="newer"):
        restore(database, blobs, changed, force=True)
    database.dispose()


def test_a_backup_of_the_first_version_loads_and_is_migrated(
    sqlite_database_url: str, blobs_of: Callable[[Path], BlobStore], clock: Clock, backup_file: Path, tmp_path: Path
) -> None:
    """An older version knew fewer tables and columns; what it wrote loads into its tables, which are then migrated."""
    database, blobs = Database(sqlite_database_url), blobs_of(tmp_path / "blobs")
    build_world(database, blobs, clock)
    back_up(database, blobs, backup_file, clock.now())
    first = Database(f"sqlite:///{tmp_path / 'first.sqlite3'}")
    migrate(first, "0001")
    inspector = inspect(first.engine)
    known = {
        table: {column["name"] for column in inspector.get_columns(table)} for table in inspector.get_table_names()
    }
    first.dispose()
    hashes: dict[str, str] = {}

    def older(name: str, data: bytes) -> bytes | None:
        if name == "backup.json":
            value = json.loads(data)
            tables = {
                table: {column: kind for column, kind in kinds.items() if column in known[table]}
                for table, kinds in value["tables"].items()
                if table in known
            }
            return json.dumps(value | {"revision": "0001", "tables": tables}).encode()
        if name == "end.json":
            value = json.loads(data)
            return json.dumps(value | {"sha256": value["sha256"] | hashes}).encode()
        if not name.startswith("tables/"):
            return data
        table = name[7:-6]
        if table not in known:
            return None
        kept = [position for position, column in enumerate(current_tables()[table]) if column in known[table]]
        rows = (json.loads(line) for line in data.splitlines())
        data = b"".join(json.dumps([row[position] for position in kept]).encode() + b"\n" for row in rows)
        hashes[table] = hashlib.sha256(data).hexdigest()
        return data

    changed = tmp_path / "older.tar"
    _rewrite(backup_file, changed, older)
    before = _rows(database)
    restore(database, blobs, changed, force=True)
    after = _rows(database)
    for table, columns in known.items():
        for rows in (before, after):  # what the version did not know has its default now
            rows[table] = [{name: row[name] for name in row if name in columns} for row in rows.get(table, [])]
        assert after[table] == before[table], table
    assert examine(database, blobs).problems == []
    database.dispose()


def test_a_target_that_cannot_be_written_is_a_sentence(
    sqlite_database_url: str, blobs_of: Callable[[Path], BlobStore], tmp_path: Path
) -> None:
    database = Database(sqlite_database_url)
    with pytest.raises(UnavailableError, match="choose another file"):
        back_up(database, blobs_of(tmp_path / "blobs"), tmp_path / "no" / "folder" / "b.tar", datetime.now(UTC))
    database.dispose()


def test_references_within_a_table_survive_any_order_of_rows(
    database: Database, blobs: BlobStore, world: World, clock: Clock, backup_file: Path
) -> None:
    back_up(database, blobs, backup_file, clock.now())

    def reversed_rows(name: str, data: bytes) -> bytes:
        return b"".join(reversed(data.splitlines(keepends=True))) if name.startswith("tables/") else data

    shuffled = backup_file.with_name("shuffled.tar")
    _rewrite(backup_file, shuffled, reversed_rows)
    with pytest.raises(CorruptDataError, match="not those that were backed up"):  # only the closing hash objects
        restore(database, blobs, shuffled, force=True)
    restore(database, blobs, backup_file, force=True)
    with database.reader() as session:
        assert session.get_one(Checkpoint, world.finetuned_id).parent_id == world.checkpoint_id
        repeats = session.scalars(select(Comparison.repeat_of).where(Comparison.repeat_of.is_not(None))).all()
        assert repeats == [world.comparison_id]
        assert session.get(Preference, world.comparison_id) is not None
