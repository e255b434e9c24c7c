"""Handler of `push`: a checkpoint's files and a model card, committed to a hub in one piece."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy.orm import Session

from app.adapters.checkpoint_store import materialise
from app.adapters.hub import push_folder
from app.db.models import Checkpoint, Measurement
from app.db.queries import gallery as queries
from app.domain.errors import JobError
from app.domain.specs import PushSpec
from worker.jobs.context import JobContext, Record
from worker.jobs.drawing import load_checkpoint

_CARD = "README.md"


def run(context: JobContext) -> Record:
    spec = PushSpec.model_validate(context.job.spec)
    token = context.settings.hub_token
    if token is None:
        raise JobError("This worker has no hub token; set TASTEMAKER_HUB_TOKEN for it and retry the job.")
    checkpoint = load_checkpoint(context, spec.checkpoint_id)
    with context.database.reader() as session:
        measured = queries.measurements(session, [checkpoint.id]).get(checkpoint.id, [])
    with TemporaryDirectory(prefix="tastemaker-push-") as name:
        folder = Path(name) / "model"
        shutil.copytree(materialise(context.blobs, checkpoint.manifest_sha256, context.settings.cache_dir), folder)
        if not (folder / _CARD).exists():
            (folder / _CARD).write_text(model_card(checkpoint, measured, spec.repo_id), encoding="utf-8")
        files = [path for path in folder.rglob("*") if path.is_file()]
        megabytes = sum(path.stat().st_size for path in files) / 1e6
        context.monitor.progress(0.1, stage=f"Pushing {len(files)} files, {megabytes:.1f} MB, to {spec.repo_id}")
        pushed = push_folder(
            folder,
            spec.repo_id,
            token=token.get_secret_value(),
            endpoint=context.settings.hub_endpoint,
            private=spec.private,
            message=spec.message or f"Push {checkpoint.name}",
        )
    context.monitor.log(f"pushed as {pushed.url}, commit {pushed.commit}")

    def record(_session: Session) -> dict[str, Any]:
        return {
            "checkpoint_id": str(checkpoint.id),
            "repo_id": spec.repo_id,
            "url": pushed.url,
            "commit": pushed.commit,
            "n_files": len(files),
        }

    return record


def model_card(checkpoint: Checkpoint, measured: list[Measurement], repo_id: str) -> str:
    """What the hub shows of a checkpoint that brings no card of its own: how it was made and what was measured."""
    lines = [
        "---", "library_name: diffusers", "pipeline_tag: unconditional-image-generation", "---", "",
        f"# {checkpoint.name}", "",
        f"A {checkpoint.kind.value} DDPM for {checkpoint.image_size} px images, made with Tastemaker"
        + (f" (epoch {checkpoint.epoch} of a finetune)." if checkpoint.epoch is not None else "."),
        "", "```python", "from diffusers import DDPMPipeline",
        f'pipeline = DDPMPipeline.from_pretrained("{repo_id}")', "```",
    ]  # fmt: skip
    if measured:
        lines += ["", "| reward | mean | standard error | n |", "|---|---|---|---|"]
        lines += [f"| {row.name} | {row.mean:.4g} | {row.sem:.2g} | {row.n} |" for row in measured]
    if checkpoint.note:
        lines += ["", checkpoint.note]
    return "\n".join([*lines, ""])
