"""Handler of `pretrain`: train a base checkpoint on a folder of images or on a rendered DiceBear style."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from jaxtyping import UInt8
from sqlalchemy.orm import Session

from app.adapters.checkpoint_store import store_folder
from app.db.models import Checkpoint
from app.domain.enums import CheckpointKind, EventKind
from app.domain.errors import JobError
from app.domain.specs import DiceBearSource, PretrainSpec
from worker.jobs.context import JobContext, Record
from worker.jobs.drawing import load_checkpoint, open_policy
from worker.jobs.images import encode_png
from worker.jobs.monitor import PartMonitor
from worker.jobs.resume import load_state, save_state, work_folder
from worker.ml.dicebear import render_style
from worker.ml.policy import save_policy
from worker.ml.pretrain import load_folder, pretrain

_RENDERING = 0.1  # share of the job's progress that rendering stands for


def run(context: JobContext) -> Record:
    spec = PretrainSpec.model_validate(context.job.spec)
    images, source = _training_images(context, spec)
    init = None
    if spec.init_checkpoint_id is not None:
        init = open_policy(context, load_checkpoint(context, spec.init_checkpoint_id))
    with work_folder(context) as folder:
        policy = pretrain(
            spec,
            images,
            sink=_Sink(context),
            monitor=PartMonitor(context.monitor, _RENDERING, 1.0),
            workdir=folder,
            device=context.device,
            resume_from=load_state(context, folder),
            init=init,
        )
    with TemporaryDirectory() as parent:
        save_policy(policy, Path(parent) / "model")
        manifest_sha256 = store_folder(context.blobs, Path(parent) / "model")

    def record(session: Session) -> dict[str, Any]:
        checkpoint = Checkpoint(
            name=spec.name,
            kind=CheckpointKind.BASE,
            parent_id=spec.init_checkpoint_id,
            job_id=context.job.id,
            source=source,
            manifest_sha256=manifest_sha256,
            image_size=spec.image_size,
            created_at=context.clock.now(),
        )
        session.add(checkpoint)
        session.flush()
        context.fence.event(session, EventKind.CHECKPOINT, {"checkpoint_id": str(checkpoint.id), "epoch": spec.steps})
        return {"checkpoint_id": str(checkpoint.id), "steps": spec.steps, "images": len(images)}

    return record


class _Sink:
    """Stores the run's states, and its sheets of samples as events that name their blobs."""

    def __init__(self, context: JobContext) -> None:
        self._context = context

    def save_state(self, step: int, path: Path) -> None:
        save_state(self._context, path)

    def sheet(self, step: int, images: UInt8[np.ndarray, "n h w 3"]) -> None:
        sheet = self._context.blobs.put(encode_png(tile(images)))
        with self._context.fence.transaction() as session:
            self._context.fence.event(session, EventKind.SAMPLES, {"sheet": sheet, "step": step})


def tile(images: UInt8[np.ndarray, "n h w 3"]) -> UInt8[np.ndarray, "rows columns 3"]:
    """The images side by side on one nearly square sheet, row by row; places left over stay black."""
    n, height, width, _ = images.shape
    columns = int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    sheet = np.zeros((rows * columns, height, width, 3), np.uint8)
    sheet[:n] = images
    grid = sheet.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, 3)


def _training_images(context: JobContext, spec: PretrainSpec) -> tuple[UInt8[np.ndarray, "n h w 3"], str]:
    """The images, and in words where they come from."""
    if isinstance(spec.data, DiceBearSource):
        images = render_style(
            spec.data.style,
            spec.data.n,
            size=spec.image_size,
            cache_dir=context.settings.cache_dir / "dicebear",
            monitor=PartMonitor(context.monitor, 0.0, _RENDERING),
        )
        return images, f"dicebear:{spec.data.style}"
    root = context.settings.models_root.resolve()
    folder = (root / spec.data.path).resolve()
    if not folder.is_relative_to(root):
        raise JobError(f"{spec.data.path!r} leads out of the models directory; copy the images into it.")
    context.monitor.progress(0.0, stage="Reading the images")
    return load_folder(folder, spec.image_size), f"folder:{spec.data.path}"
