"""Rows and images for tests of labeling: checkpoints whose samples are small pictures in the blob store."""

import io
from collections.abc import Iterable
from datetime import UTC, datetime
from random import Random
from uuid import UUID

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from app.adapters.blobs import BlobStore
from app.config import Settings
from app.db.models import Checkpoint, Sample
from app.db.session import Database
from app.domain.enums import CheckpointKind

MADE_AT = datetime(2026, 1, 1, tzinfo=UTC)


def add_checkpoint(
    database: Database, settings: Settings, name: str = "base", seeds: Iterable[int] = range(8), *, steps: int = 20
) -> UUID:
    """A checkpoint with one 8x8 sample a seed. The stored PNGs carry a text chunk that would unblind."""
    blobs = BlobStore(settings.blob_root)
    with database.writer() as session:
        checkpoint = Checkpoint(
            name=name,
            kind=CheckpointKind.BASE,
            source=name,
            manifest_sha256=blobs.put_json({"files": {}}),
            image_size=8,
            tags=[],
            n_samples=0,
            created_at=MADE_AT,
        )
        session.add(checkpoint)
        session.flush()
        for ordinal, seed in enumerate(seeds):
            session.add(
                Sample(
                    checkpoint_id=checkpoint.id,
                    ordinal=ordinal,
                    seed=seed,
                    steps=steps,
                    eta=1.0,
                    guidance_key="",
                    width=8,
                    height=8,
                    sha256=blobs.put(_png(f"{name}/{seed}")),
                    created_at=MADE_AT,
                )
            )
            checkpoint.n_samples += 1
        return checkpoint.id


def _png(identity: str) -> bytes:
    about = PngInfo()
    about.add_text("checkpoint", identity)
    encoded = io.BytesIO()
    Image.frombytes("RGB", (8, 8), Random(identity).randbytes(192)).save(encoded, "PNG", pnginfo=about)
    return encoded.getvalue()
