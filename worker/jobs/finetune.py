"""Handler of `finetune`: DDPO, with a checkpoint and its evaluation samples at every evaluated epoch."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from sqlalchemy.orm import Session

from app.adapters.checkpoint_store import store_folder
from app.config import Settings
from app.db.models import Checkpoint
from app.db.queries import checkpoints as queries
from app.db.queries.dev_trajectories import record_dev_trajectories
from app.db.queries.jobs import Claim
from app.db.queries.samples import Recipe
from app.domain.enums import CheckpointKind, EventKind
from app.domain.errors import JobCancelledError, JobError, JobPausedError
from app.domain.specs import FinetuneSpec
from worker.jobs.alarms import AlarmWatch
from worker.jobs.context import JobContext, Record
from worker.jobs.drawing import load_checkpoint, open_policy, put_images, record_samples
from worker.jobs.ranks import Seat, joined, seated
from worker.jobs.resume import load_state, save_state, state_file, work_folder
from worker.jobs.rewards import record_evaluation, reward_of, rewards_by_key
from worker.ml.ddpo import finetune
from worker.ml.diversity import vendi_score
from worker.ml.encoders import load_encoder
from worker.ml.policy import Policy, save_policy
from worker.ml.progress import Metric, SilentMonitor

_TRAJECTORIES = "eval_trajectories"
_Diversity = Callable[[UInt8[np.ndarray, "n h w 3"]], float]


def run(context: JobContext) -> Record:
    spec = FinetuneSpec.model_validate(context.job.spec)
    base = load_checkpoint(context, spec.checkpoint_id)
    context.monitor.progress(context.job.progress, stage=f"Loading {base.name}")
    diversity = _vendi_score(context)
    recorder = _Recorder(context, spec, base)
    with work_folder(context) as folder:
        policy, resume_from = open_policy(context, base), load_state(context, folder)
        with (
            _paused_where_asked(recorder),
            joined(context, folder, module=__name__, function=run_rank.__name__) as ranks,
        ):
            outcome = finetune(
                policy,
                spec,
                reward_of(context, spec.reward),
                sink=recorder,
                monitor=recorder,
                workdir=folder,
                device=context.device,
                resume_from=resume_from,
                holdout=rewards_by_key(context, spec.guard.holdout_rewards),
                diversity=diversity,
                ranks=ranks,
            )

    def record(session: Session) -> dict[str, Any]:
        best = queries.checkpoint_of_epoch(session, context.job.id, outcome.last_good_epoch)
        if best is None and outcome.last_good_epoch > 0:
            raise JobError(f"The checkpoint of epoch {outcome.last_good_epoch} has gone; start the job over.")
        if best is not None:
            best.deleted_at = None  # it may have been binned before the run's budget was raised
        return {
            "checkpoint_id": str(best.id if best is not None else base.id),
            "epochs": outcome.epochs,
            "stopped_by": outcome.stopped_by,
        }

    return record


def run_rank(settings: Settings, claim: Claim, seat: Seat) -> None:
    """The share of another rank than 0, in a process of its own; it stores nothing."""
    with seated(settings, claim, seat) as context:
        spec = FinetuneSpec.model_validate(context.job.spec)
        base = load_checkpoint(context, spec.checkpoint_id)
        state = state_file(seat.folder)
        finetune(
            open_policy(context, base),
            spec,
            reward_of(context, spec.reward),
            sink=_NoSink(),
            monitor=SilentMonitor(),
            workdir=seat.folder,
            device=context.device,
            resume_from=state if state.exists() else None,
            ranks=seat.join(),
        )


def _vendi_score(context: JobContext) -> _Diversity:
    """The effective number of different images, in the eyes of the configured encoder."""
    encoder = load_encoder(context.settings.encoder, device=context.device, weights_dir=context.settings.weights_dir)
    return lambda images: vendi_score(encoder.encode(images))


class _NoSink:
    """The run's sink on ranks other than 0, which is told nothing."""

    def save_state(self, epoch: int, path: Path) -> None:
        """Never called."""

    def evaluated(
        self,
        epoch: int,
        policy: Policy,
        seeds: Sequence[int],
        images: UInt8[np.ndarray, "n h w 3"],
        rewards: Float[np.ndarray, " n"],
    ) -> None:
        """Never called."""


@contextmanager
def _paused_where_asked(recorder: "_Recorder") -> Iterator[None]:
    """A stop that the run's own alarm asked for is a pause, and says why."""
    try:
        yield
    except JobCancelledError as cancelled:
        if recorder.pause_reason is None:
            raise
        raise JobPausedError(recorder.pause_reason) from cancelled


class _Recorder:
    """The run's sink and its monitor: both, since an epoch's checkpoint gets its KL and diversity from the metrics."""

    def __init__(self, context: JobContext, spec: FinetuneSpec, base: Checkpoint) -> None:
        self.progress = context.monitor.progress
        self.log = context.monitor.log
        self.pause_reason: str | None = None
        """Why the run should stop before its next epoch: an alarm, where the spec asks for a pause."""
        self._watch = AlarmWatch(context, spec, base)
        self._context = context
        self._spec = spec
        self._base = base
        self._rewards = rewards_by_key(context, (*spec.reward, *spec.guard.holdout_rewards))

    def should_stop(self) -> bool:
        return self._context.monitor.should_stop() or self.pause_reason is not None

    def metrics(self, row: Mapping[str, Metric]) -> None:
        """Values of single samples go to a table of their own: a log is read whole and must stay small."""
        self._context.monitor.metrics({name: value for name, value in row.items() if name != _TRAJECTORIES})
        epoch = row["epoch"]
        assert isinstance(epoch, int)
        with self._context.fence.transaction() as session:
            if isinstance(trajectories := row.get(_TRAJECTORIES), list):
                record_dev_trajectories(session, self._context.job.id, epoch, trajectories)
            checkpoint = queries.checkpoint_of_epoch(session, self._context.job.id, epoch)
            if checkpoint is not None:
                checkpoint.kl_nats = _number(row.get("eval_kl_nats"))
                checkpoint.diversity = _number(row.get("diversity"))
        alarm = self._watch.reported(epoch, row)
        if alarm is not None and self._spec.guard.pause_on_alarm and epoch < self._spec.epochs:
            self.pause_reason = (
                f"Paused by an alarm at epoch {epoch} of {self._spec.epochs}. {alarm} Go on, or return to an epoch "
                "before it."
            )

    def save_state(self, epoch: int, path: Path) -> None:
        save_state(self._context, path)

    def evaluated(
        self,
        epoch: int,
        policy: Policy,
        seeds: Sequence[int],
        images: UInt8[np.ndarray, "n h w 3"],
        rewards: Float[np.ndarray, " n"],
    ) -> None:
        """Store the epoch's checkpoint with its samples and rewards at once; epoch 0 is the base itself."""
        context = self._context
        manifest_sha256 = self._base.manifest_sha256 if epoch == 0 else self._store(policy)
        drawn = put_images(context.blobs, seeds, images)
        values = {name: reward(images) for name, reward in self._rewards.items()}
        self._watch.evaluated(epoch, seeds, values)
        with context.fence.transaction() as session:
            checkpoint = self._base if epoch == 0 else self._checkpoint(session, epoch, manifest_sha256)
            recipe = Recipe(checkpoint.id, self._spec.steps, self._spec.eta)
            samples = record_samples(session, context, recipe, drawn, epoch=epoch)
            record_evaluation(session, checkpoint.id, samples, values)
            payload = {"checkpoint_id": str(checkpoint.id), "epoch": epoch}
            context.fence.event(session, EventKind.CHECKPOINT, payload)

    def _store(self, policy: Policy) -> str:
        with TemporaryDirectory() as folder:
            save_policy(policy, Path(folder) / "model")
            return store_folder(self._context.blobs, Path(folder) / "model")

    def _checkpoint(self, session: Session, epoch: int, manifest_sha256: str) -> Checkpoint:
        """The row of this epoch. An epoch that is repeated after a crash finds its own row, even in the bin; one that
        came out otherwise (the job was started over, or the device is not deterministic) takes the place of the old
        row, which stays as it is, since its samples may have been judged."""
        job = self._context.job
        old = queries.checkpoint_of_epoch(session, job.id, epoch)
        if old is not None:
            if old.manifest_sha256 == manifest_sha256:
                old.deleted_at = None
                return old
            old.epoch = None
            old.tags = [*old.tags, "superseded"]
            session.flush()
        suffix = f" · epoch {epoch}"
        checkpoint = Checkpoint(
            name=job.name[: 120 - len(suffix)] + suffix,
            kind=CheckpointKind.FINETUNED,
            parent_id=self._base.id,
            job_id=job.id,
            epoch=epoch,
            source=f"job:{job.id}",
            manifest_sha256=manifest_sha256,
            image_size=self._base.image_size,
            tags=[term.name for term in self._spec.reward],
            created_at=self._context.clock.now(),
        )
        session.add(checkpoint)
        session.flush()
        return checkpoint


def _number(value: Metric) -> float | None:
    return value if isinstance(value, float) and math.isfinite(value) else None
