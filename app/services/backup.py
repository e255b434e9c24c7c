"""A consistent copy of database and blobs in one tar file, made while everything runs.

The rows are read in one transaction that sees one moment, so the copy is what the database was then; blobs never change
and are only deleted when a job replaces its resumable state, so those are copied first (and the rows read again where
one was replaced meanwhile). `app.services.restore` reads what is written here:

    backup.json             format, versions, the tables with their columns
    tables/<name>.jsonl     one row a line, parents before the tables that refer to them
    blobs/<sha256>          every blob that a row needs
    end.json                rows and SHA-256 of every table, what was missing; without it the file is torn
"""

import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from app import __version__
from app.adapters.blobs import BlobStore
from app.db.migrate import known_revisions
from app.db.queries import portable_rows
from app.db.queries.blob_refs import BlobReference, BlobRole, blob_references, still_referenced
from app.db.session import Database
from app.domain.errors import ConflictError, CorruptDataError, NotFoundError, TastemakerError, UnavailableError
from app.services.blob_needs import needed_blobs

FORMAT = 1
_SNAPSHOT_TRIES = 5
_IN_MEMORY = 4 << 20  # larger blobs pass through a file


@dataclass
class BackupReport:
    """What a backup holds, and what it could not copy."""

    rows: dict[str, int] = field(default_factory=dict)
    n_blobs: int = 0
    n_bytes: int = 0
    damaged: list[str] = field(default_factory=list)
    """One sentence for each blob that a row needs and the store does not have whole."""


@dataclass(frozen=True)
class _Snapshot:
    folder: Path
    tables: dict[str, dict[str, str]]
    rows: dict[str, int]
    hashes: dict[str, str]
    references: list[BlobReference]


def back_up(database: Database, blobs: BlobStore, target: Path, now: datetime) -> BackupReport:
    """Write the backup to `target`, which appears only when it is whole. It holds hashes of passwords and tokens, so
    only its owner may read it.

    Raises:
        ConflictError: the database is not at this version's migration, or resumable states were replaced faster than
            they could be copied.
        UnavailableError: the target cannot be written.
    """
    _require_current(database)
    with (
        _work_folder(target) as folder,
        _appearing_whole(target) as out,
        tarfile.open(fileobj=out, mode="w") as archive,
    ):
        snapshot, states = _consistent_snapshot(database, blobs, folder)
        report = BackupReport(rows=snapshot.rows)
        _add_json(
            archive,
            "backup.json",
            {
                "format": FORMAT,
                "version": __version__,
                "revision": known_revisions()[0],
                "created_at": now.isoformat(),
                "tables": snapshot.tables,
            },
        )
        for table in snapshot.tables:
            archive.add(snapshot.folder / table, f"tables/{table}.jsonl", filter=_anonymous)
        for digest, path in states.items():
            _add_file(archive, f"blobs/{digest}", path, report)
        _add_blobs(archive, blobs, snapshot.references, folder / "blob", done=set(states), report=report)
        _add_json(archive, "end.json", {"rows": snapshot.rows, "sha256": snapshot.hashes, "damaged": report.damaged})
    return report


def describe(reference: BlobReference, problem: TastemakerError) -> str:
    return f"The {reference.role.value} of {reference.table} {reference.row_id}: {problem.detail}"


def _require_current(database: Database) -> None:
    with database.engine.connect() as connection:
        found = portable_rows.revision(connection)
    if found != known_revisions()[0]:
        raise ConflictError(
            f"The database is at migration {found or 'none'}, this version needs {known_revisions()[0]}; "
            "run `tastemaker migrate` first, or use the version that the database belongs to."
        )


def _consistent_snapshot(database: Database, blobs: BlobStore, folder: Path) -> tuple[_Snapshot, dict[str, Path]]:
    """The rows, and copies of the resumable states that they name."""
    for number in range(_SNAPSHOT_TRIES):
        attempt = folder / str(number)
        attempt.mkdir()
        snapshot = _read_rows(database, attempt)
        states: dict[str, Path] = {}
        lost: list[BlobReference] = []
        for reference in snapshot.references:
            if reference.role is BlobRole.RESUME_STATE:
                path = attempt / reference.digest
                try:
                    blobs.download(reference.digest, path)
                    states[reference.digest] = path
                except NotFoundError:
                    lost.append(reference)
                except CorruptDataError:
                    continue  # reported with the other blobs
        with database.reader() as session:
            replaced = set(lost) - still_referenced(session, lost)
        if not replaced:
            return snapshot, states
    raise ConflictError(
        "Running jobs replaced their resumable states faster than these could be copied; try again in a minute, or "
        "cancel the jobs first (they can be resumed)."
    )


def _read_rows(database: Database, folder: Path) -> _Snapshot:
    tables = portable_rows.current_tables()
    rows: dict[str, int] = {}
    hashes: dict[str, str] = {}
    with database.reader() as session:
        connection = session.connection()
        portable_rows.use_one_snapshot(connection)
        for table, kinds in tables.items():
            hasher, n = hashlib.sha256(), 0
            with (folder / table).open("wb") as out:
                for line in portable_rows.dump_rows(connection, table, kinds):
                    hasher.update(line)
                    out.write(line)
                    n += 1
            rows[table], hashes[table] = n, hasher.hexdigest()
        references = list(blob_references(session))
    return _Snapshot(folder, tables, rows, hashes, references)


def _add_blobs(
    archive: tarfile.TarFile,
    blobs: BlobStore,
    references: Iterable[BlobReference],
    scratch: Path,
    *,
    done: set[str],
    report: BackupReport,
) -> None:
    for reference, needed in needed_blobs(blobs, references):
        if isinstance(needed, TastemakerError):
            report.damaged.append(describe(reference, needed))
            continue
        if needed in done:
            continue
        done.add(needed)
        try:
            if blobs.size(needed) <= _IN_MEMORY:
                data = blobs.get(needed)
                _add_bytes(archive, f"blobs/{needed}", data)
                report.n_blobs += 1
                report.n_bytes += len(data)
            else:
                blobs.download(needed, scratch)
                _add_file(archive, f"blobs/{needed}", scratch, report)
        except (NotFoundError, CorruptDataError) as error:
            report.damaged.append(describe(reference, error))


def _add_file(archive: tarfile.TarFile, name: str, path: Path, report: BackupReport) -> None:
    report.n_blobs += 1
    report.n_bytes += path.stat().st_size
    archive.add(path, name, filter=_anonymous)
    path.unlink()


def _add_json(archive: tarfile.TarFile, name: str, value: Any) -> None:
    _add_bytes(archive, name, json.dumps(value, indent=1).encode())


def _add_bytes(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(_anonymous(entry), io.BytesIO(data))


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """The machine's user names and times do not belong into the copy."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode, entry.mtime = 0o600, 0
    return entry


@contextmanager
def _work_folder(target: Path) -> Iterator[Path]:
    """Scratch on the disk that must have room for the backup anyway."""
    try:
        folder = tempfile.TemporaryDirectory(prefix=".tastemaker-backup-", dir=target.parent)
    except OSError as error:
        raise UnavailableError(f"Cannot write to {target.parent}: {error.strerror}; choose another file.") from error
    with folder as name:
        yield Path(name)


@contextmanager
def _appearing_whole(target: Path) -> Iterator[BinaryIO]:
    """A file that takes its name once the block has ended well and its bytes are on the disk."""
    partial = target.with_name(f".{target.name}.partial")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        partial.replace(target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise UnavailableError(
            f"Cannot write the backup: {error.strerror or error}; free some space and repeat."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
