"""Every vote of a campaign as JSON lines or Parquet, streamed: memory does not grow with the campaign."""

import hashlib
import hmac
import json
import tempfile
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import IO, Any, Literal
from uuid import UUID

from sqlalchemy.orm import Session

from app.config import Settings
from app.db.queries import campaigns as queries
from app.db.queries.campaigns import ExportRow
from app.db.session import Database
from app.domain.errors import NotFoundError

ExportFormat = Literal["jsonl", "parquet"]

_ROWS_AT_ONCE = 2000
_CHUNK = 1 << 16
_SPOOL = 1 << 23


def rater_pseudonym(user_id: UUID, settings: Settings) -> str:
    """A name for a rater that is the same in every export of this deployment and tells nothing without its secret."""
    key = settings.secret_key.get_secret_value().encode()
    return hmac.new(key, b"rater:" + user_id.bytes, hashlib.sha256).hexdigest()[:16]


def require_exportable(session: Session, campaign_id: UUID) -> None:
    """Raises NotFoundError where there is no such campaign, before a stream has begun."""
    if queries.get_campaign(session, campaign_id) is None:
        raise NotFoundError("There is no such campaign; GET /campaigns lists them.")


def export_votes(database: Database, settings: Settings, campaign_id: UUID, format: ExportFormat) -> Iterator[bytes]:
    """The file in pieces. It reads in a session of its own, since it outlives the request's."""
    with database.reader() as session:
        rows = (_record(row, settings) for row in queries.export_rows(session, campaign_id))
        if format == "jsonl":
            yield from (json.dumps(row, default=_to_json, separators=(",", ":")).encode() + b"\n" for row in rows)
        else:
            yield from _parquet(rows)


def _record(row: ExportRow, settings: Settings) -> dict[str, Any]:
    values = {name: str(value) if isinstance(value, UUID) else value for name, value in row._asdict().items()}
    values["rater"] = rater_pseudonym(row.rater_id, settings)
    del values["rater_id"]
    return values


def _to_json(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    raise TypeError(f"{type(value).__name__} has no place in an export")


def _parquet(rows: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    """A Parquet file begins with its first rows and ends with its index, so it is spooled to disk and then sent."""
    import pyarrow as pa  # 60 MB of shared libraries that only this call needs
    import pyarrow.parquet as pq

    moment = pa.timestamp("us", tz="UTC")
    types = {
        "left_seed": pa.int64(), "right_seed": pa.int64(), "response_ms": pa.int64(), "repetition": pa.int64(),
        "is_random": pa.bool_(), "selection_probability": pa.float64(),
        "leased_at": moment, "created_at": moment, "updated_at": moment,
    }  # fmt: skip
    names = [name for name in ExportRow._fields if name != "rater_id"] + ["rater"]
    schema = pa.schema([(name, types.get(name, pa.string())) for name in names])
    with tempfile.SpooledTemporaryFile(max_size=_SPOOL) as spool:
        with pq.ParquetWriter(spool, schema) as writer:
            while batch := list(islice(rows, _ROWS_AT_ONCE)):
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
        spool.seek(0)
        yield from _pieces(spool)


def _pieces(stream: IO[bytes]) -> Iterator[bytes]:
    while piece := stream.read(_CHUNK):
        yield piece
