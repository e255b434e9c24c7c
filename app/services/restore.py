"""Brings a backup (see `app.services.backup`) back, into SQLite or PostgreSQL whichever it came from.

Everything is checked against its hash as it is read, and the rows are committed last: a restore that fails leaves the
database as it was.
"""

import hashlib
import json
import re
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from app.adapters.blobs import BlobStore
from app.db.migrate import known_revisions, migrate_connection
from app.db.queries import portable_rows
from app.db.session import Database
from app.domain.errors import ConflictError, CorruptDataError, NotFoundError
from app.services.backup import FORMAT

_CHUNK = 1 << 20
_BLOB = re.compile(r"blobs/([0-9a-f]{64})")
_TABLE = re.compile(r"tables/([a-z_]+)\.jsonl")


@dataclass
class RestoreReport:
    """What was brought back, and what the backup itself says it lacks."""

    created_at: str
    rows: dict[str, int] = field(default_factory=dict)
    n_blobs: int = 0
    damaged: list[str] = field(default_factory=list)


def restore(database: Database, blobs: BlobStore, source: Path, *, force: bool = False) -> RestoreReport:
    """Load a backup into an empty database and its blobs into the store, then migrate to this version.

    Stop the web processes and workers first: with `force`, whatever the database holds is replaced under them.

    Raises:
        NotFoundError: there is no such file.
        ConflictError: the database is not empty and `force` is not set, or the backup is of a newer version.
        CorruptDataError: the file is no whole backup, or a hash does not match.
    """
    if not source.is_file():
        raise NotFoundError(f"There is no backup {source}.")
    try:
        with (
            tarfile.open(source, mode="r:") as archive,
            tempfile.TemporaryDirectory() as scratch,
            database.new_session(write=True) as session,
        ):
            report = _restore(session.connection(), blobs, archive, Path(scratch) / "blob", force=force)
            session.commit()
    except (tarfile.TarError, EOFError) as error:
        raise CorruptDataError(f"{source} is not a whole backup: {error}. Use another copy.") from error
    except DBAPIError as error:
        raise CorruptDataError(
            f"The rows of the backup do not fit together: {error.orig}. Use another copy."
        ) from error
    return report


def _restore(
    connection: Connection, blobs: BlobStore, archive: tarfile.TarFile, scratch: Path, *, force: bool
) -> RestoreReport:
    if not force and not portable_rows.is_empty(connection):
        raise ConflictError(
            "The database is not empty. Point TASTEMAKER_DATABASE_URL or TASTEMAKER_DATA_DIR at a new one, or repeat "
            "with --force to replace everything in it."
        )
    members = iter(archive)
    header = _header(archive, next(members, None))
    portable_rows.drop_everything(connection)
    migrate_connection(connection, header["revision"])
    report = RestoreReport(created_at=header["created_at"])
    hashes: dict[str, str] = {}
    end: dict[str, Any] | None = None
    for member in members:
        content = archive.extractfile(member) if member.isreg() else None
        if content is None or end is not None:
            raise CorruptDataError(f"{member.name!r} does not belong into a backup.")
        if found := _TABLE.fullmatch(member.name):
            table = found[1]
            report.rows[table], hashes[table] = _load_table(connection, table, header["tables"], content)
        elif found := _BLOB.fullmatch(member.name):
            _store_blob(blobs, found[1], content, scratch)
            report.n_blobs += 1
        elif member.name == "end.json":
            end = _json_object(content.read())
        else:
            raise CorruptDataError(f"{member.name!r} does not belong into a backup.")
    if end is None:
        raise CorruptDataError("The backup breaks off before its end; use another copy.")
    for table in header["tables"]:
        if (report.rows.get(table), hashes.get(table)) != (end["rows"].get(table), end["sha256"].get(table)):
            raise CorruptDataError(f"The rows of {table!r} are not those that were backed up; use another copy.")
    report.damaged = list(end["damaged"])
    migrate_connection(connection)
    return report


def _header(archive: tarfile.TarFile, member: tarfile.TarInfo | None) -> dict[str, Any]:
    content = archive.extractfile(member) if member is not None and member.name == "backup.json" else None
    if content is None:
        raise CorruptDataError("This is no backup of Tastemaker: it does not begin with backup.json.")
    header = _json_object(content.read())
    if header.get("format") != FORMAT or header.get("revision") not in known_revisions():
        raise ConflictError(
            f"This backup is of version {header.get('version')} (format {header.get('format')}, migration "
            f"{header.get('revision')}), which this version does not know; restore it with that version or a newer one."
        )
    kinds = {kind for columns in header["tables"].values() for kind in columns.values()}
    if not kinds <= portable_rows.KINDS:
        raise CorruptDataError(f"The backup describes columns that cannot be: {sorted(kinds - portable_rows.KINDS)}.")
    return header


def _load_table(
    connection: Connection, table: str, tables: Mapping[str, Mapping[str, str]], content: IO[bytes]
) -> tuple[int, str]:
    if table not in tables:
        raise CorruptDataError(f"The backup holds rows of {table!r} and does not describe that table.")
    hasher = hashlib.sha256()

    def lines() -> Iterator[bytes]:
        for line in content:
            hasher.update(line)
            yield line

    n = portable_rows.load_rows(connection, table, tables[table], lines())
    return n, hasher.hexdigest()


def _store_blob(blobs: BlobStore, digest: str, content: IO[bytes], scratch: Path) -> None:
    hasher = hashlib.sha256()
    with scratch.open("wb") as out:
        while chunk := content.read(_CHUNK):
            hasher.update(chunk)
            out.write(chunk)
    if hasher.hexdigest() != digest:
        raise CorruptDataError(f"Blob {digest[:12]} in the backup does not match its hash; use another copy.")
    blobs.put_file(scratch)


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise CorruptDataError(f"The backup's table of contents cannot be read: {error}.") from error
    if not isinstance(value, dict):
        raise CorruptDataError("The backup's table of contents cannot be read.")
    return value
