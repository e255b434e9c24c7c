"""Every vote of a campaign as JSON lines, Parquet, or a folder with images for Hugging Face `datasets`, streamed.

Memory does not grow with the campaign, but for the hashes of the images in a folder.
"""

import hashlib
import hmac
import json
import tempfile
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import IO, Any, Literal
from uuid import UUID

from sqlalchemy.orm import Session

from app.adapters.blobs import BlobStore
from app.config import Settings
from app.db.queries import campaigns as queries
from app.db.queries import gallery as gallery_queries
from app.db.queries.campaigns import ExportRow
from app.db.session import Database
from app.domain.errors import NotFoundError
from app.services.export_folder import folder_with_images

ExportFormat = Literal["jsonl", "parquet", "datasets"]

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


def export_votes(
    database: Database, settings: Settings, blobs: BlobStore, campaign_id: UUID, format: ExportFormat
) -> Iterator[bytes]:
    """The file in pieces. It reads in a session of its own, since it outlives the request's."""
    with database.reader() as session:
        rows = (_record(row, settings) for row in queries.export_rows(session, campaign_id))
        if format == "jsonl":
            yield from map(json_line, rows)
        elif format == "parquet":
            yield from _parquet(rows)
        else:
            yield from folder_with_images(rows, blobs, card=_about(session, campaign_id))


def json_line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, default=_to_json, separators=(",", ":")).encode() + b"\n"


def _about(session: Session, campaign_id: UUID) -> dict[str, Any]:
    campaign = queries.get_campaign(session, campaign_id)
    assert campaign is not None
    ids = queries.checkpoint_ids(session, [campaign_id])[campaign_id]
    known = gallery_queries.existing_checkpoints(session, ids)
    return {
        "campaign_id": str(campaign_id),
        "name": campaign.name,
        "question": campaign.question,
        "guidelines": campaign.guidelines,
        "strategy": campaign.strategy.value,
        "overlap": campaign.overlap,
        "checkpoints": {str(id): known[id].name for id in ids if id in known},
    }


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
        "is_random": pa.bool_(), "retracted": pa.bool_(), "selection_probability": pa.float64(),
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
