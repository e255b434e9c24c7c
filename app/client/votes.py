"""`tastemaker import-votes`: a file of an export, in parts that one call takes."""

import json
import zipfile
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path

from app.client.client import Json, TastemakerClient
from app.domain.errors import InvalidSpecError

_ROWS_A_CALL = 5000
_METADATA = "train/metadata.jsonl"


def import_file(client: TastemakerClient, campaign_id: str, path: Path) -> Json:
    """Send every vote of a JSON lines, Parquet or zip file of an export. Returns the sum of the server's reports.

    First showings go before their repeats, whatever the order of the file. Safe to call again after it broke off: votes
    that arrived are known.

    Raises:
        InvalidSpecError: the file cannot be read.
        ApiError: the server refused a part; the parts before it are stored.
    """
    total = {"imported": 0, "known": 0, "raters": 0}
    lines = (line for repeats in (False, True) for line in _lines_of(path) if _is_repeat(line) is repeats)
    while part := list(islice(lines, _ROWS_A_CALL)):
        report = client.import_votes(campaign_id, b"".join(part))
        total["imported"] += report["imported"]
        total["known"] += report["known"]
        total["raters"] = max(total["raters"], report["raters"])
    return total


def _is_repeat(line: bytes) -> bool:
    try:
        return bool(json.loads(line).get("repeat_of"))
    except (ValueError, AttributeError):
        return False  # the server says what is wrong with it


def _lines_of(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as stream:
            start = stream.read(4)
        if start == b"PAR1":
            yield from _parquet_lines(path)
        elif start.startswith(b"PK"):
            with zipfile.ZipFile(path) as archive, archive.open(_METADATA) as member:
                yield from member
        else:
            with path.open("rb") as stream:
                yield from stream
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise InvalidSpecError(f"{path} cannot be read as an export of votes: {error}") from error


def _parquet_lines(path: Path) -> Iterator[bytes]:
    import pyarrow.parquet as pq  # 60 MB of shared libraries that only this call needs

    for batch in pq.ParquetFile(path).iter_batches(batch_size=_ROWS_A_CALL):
        for row in batch.to_pylist():
            yield json.dumps(row, default=datetime.isoformat).encode() + b"\n"
