"""Votes and their images as a zipped folder that `datasets.load_dataset(FOLDER)` opens (its imagefolder layout)."""

import json
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from app.adapters.blobs import BlobStore
from app.services.zip_stream import Pieces

METADATA = "train/metadata.jsonl"
"""Where the votes lie in the folder."""

_SPOOL = 1 << 23
_CHUNK = 1 << 16

_CARD = """---
pretty_name: {title}
task_categories: [image-classification, text-to-image]
tags: [human-feedback, pairwise-preferences]
---

# {heading}

Pairwise votes from a Tastemaker campaign. Open the unpacked folder with

```python
from datasets import load_dataset

votes = load_dataset("path/to/this/folder", split="train")
votes[0]["left"], votes[0]["right"], votes[0]["choice"]
```

One row of `train/metadata.jsonl` is one vote, as in the JSON lines export: `choice` is `left`, `right`, `tie`,
`both_bad` or `skip`; `rater` is a pseudonym; `is_random` says whether the pair was drawn at random (measure on those
alone) and `selection_probability` with what chance; `repeat_of` names the comparison that this one repeats with sides
swapped; `gold` is the known answer of a pair that was shown for it, which measures the rater and is not to be fitted;
`retracted` votes do not count. `campaign.json` says what was asked and of whose samples.
"""


def folder_with_images(
    rows: Iterable[Mapping[str, Any]], blobs: BlobStore, *, card: Mapping[str, Any]
) -> Iterator[bytes]:
    """A zip file in pieces: images as they are met, each once, then the votes, then what the campaign was.

    Raises:
        CorruptDataError: an image does not match its hash; the archive breaks off and cannot be opened.
    """
    out = Pieces()
    sent: set[str] = set()
    with zipfile.ZipFile(out, "w") as archive, tempfile.SpooledTemporaryFile(max_size=_SPOOL) as metadata:
        for row in rows:
            names = {}
            for side in ("left", "right"):
                digest = row[f"{side}_sha256"]
                names[f"{side}_file_name"] = f"images/{digest}.png"
                if digest not in sent:
                    sent.add(digest)
                    archive.writestr(f"train/images/{digest}.png", blobs.get(digest))
                    yield out.take()
            metadata.write(json.dumps({**names, **row}, default=_to_json, separators=(",", ":")).encode() + b"\n")
        metadata.seek(0)
        entry = zipfile.ZipInfo(METADATA)
        entry.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(entry, "w") as target:
            while chunk := metadata.read(_CHUNK):
                target.write(chunk)
                yield out.take()
        archive.writestr("campaign.json", json.dumps(dict(card), indent=2, ensure_ascii=False))
        title = json.dumps(card["name"], ensure_ascii=False)
        archive.writestr("README.md", _CARD.format(title=title, heading=str(card["name"]).replace("\n", " ")))
    yield out.take()


def _to_json(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    raise TypeError(f"{type(value).__name__} has no place in an export")
