"""Pretraining a DDPM (arXiv:2006.11239, Algorithm 1) from random weights or a checkpoint, resumable bit for bit."""

import copy
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DModel
from jaxtyping import Float, UInt8
from torch import Tensor

from app.domain.errors import CorruptDataError, JobCancelledError, JobError
from app.domain.specs import PretrainSpec
from worker.ml.image_folder import load_folder
from worker.ml.memory import explain_out_of_memory
from worker.ml.noise import generator
from worker.ml.policy import Policy
from worker.ml.progress import Monitor
from worker.ml.rollout import autocast, draw_samples
from worker.ml.state import RunState, pack_optimizer, read_state, unpack_optimizer, write_state

__all__ = ["PretrainSink", "build_unet", "diffuse", "ema_decay", "learning_rate", "load_folder", "pretrain"]

_NORM_GROUPS = 8
_ADAM_BETAS = (0.9, 0.99)
_MAX_GRAD_NORM = 1.0
_METRICS_EVERY = 50
_SHEET_SEEDS = range(16)
_SHEET_STEPS = 40


@runtime_checkable
class PretrainSink(Protocol):
    """Where a pretraining run's results go."""

    def save_state(self, step: int, path: Path) -> None:
        """`path` is a complete resumable state after `step` updates; it is overwritten by the next one."""

    def sheet(self, step: int, images: UInt8[np.ndarray, "n h w 3"]) -> None:
        """Samples of the averaged weights after `step` updates, always from the same noise."""


def pretrain(
    spec: PretrainSpec,
    images: UInt8[np.ndarray, "n h w 3"],
    *,
    sink: PretrainSink,
    monitor: Monitor,
    workdir: Path,
    device: str = "cpu",
    resume_from: Path | None = None,
    init: Policy | None = None,
) -> Policy:
    """Train a policy on `images` and return it with its averaged weights.

    Every random draw is a function of (seed, update), so a run that was interrupted and resumed ends with the same
    weights as one that was not.

    Args:
        workdir: an existing folder for the state file.
        resume_from: a state that `sink.save_state` was given.
        init: weights to start from; its network must be the one that `spec` describes.

    Raises:
        JobCancelledError: a stop was asked for; the state is with the sink.
        JobError: spec, images and `init` do not fit together, or the loss is not finite.
        CorruptDataError: `resume_from` is torn, or of another spec or data set.
    """
    if images.ndim != 4 or images.shape[1:] != (spec.image_size, spec.image_size, 3) or len(images) == 0:
        raise JobError(
            f"The training images have shape {images.shape}; image_size asks for (n, {spec.image_size}, "
            f"{spec.image_size}, 3)."
        )
    run = _Run(spec, images, sink, monitor, workdir, torch.device(device), init)
    return run.execute(resume_from)


def build_unet(spec: PretrainSpec) -> UNet2DModel:
    """The network of `spec` with random weights drawn from its seed: one layer a block, attention at the deepest level.

    Raises:
        JobError: the image size or the channels do not fit the architecture.
    """
    levels = len(spec.channels)
    if spec.image_size % 2 ** (levels - 1):
        raise JobError(f"image_size {spec.image_size} cannot be halved {levels - 1} times; use fewer channels entries.")
    if any(width < 1 or width % _NORM_GROUPS for width in spec.channels):
        raise JobError(f"channels {spec.channels} must be positive multiples of {_NORM_GROUPS}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        return UNet2DModel(
            sample_size=spec.image_size,
            in_channels=3,
            out_channels=3,
            block_out_channels=spec.channels,
            layers_per_block=1,
            down_block_types=("DownBlock2D",) * (levels - 1) + ("AttnDownBlock2D",),
            up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * (levels - 1),
            attention_head_dim=math.gcd(32, spec.channels[-1]),
            norm_num_groups=_NORM_GROUPS,
        )


def diffuse(
    x_0: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], alpha_bar: Float[Tensor, " b"]
) -> Float[Tensor, "b c h w"]:
    """x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise (arXiv:2006.11239, eq. 4)."""
    alpha_bar = alpha_bar.view(-1, 1, 1, 1)
    return alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * noise


def learning_rate(spec: PretrainSpec, step: int) -> float:
    """Rate of update `step` (from 0): linear warm-up, then constant, then linear to 0 over the second half."""
    warm = min(1.0, (step + 1) / spec.warmup) if spec.warmup else 1.0
    half = spec.steps / 2
    return spec.lr * warm * min(1.0, (spec.steps - step) / half)


def ema_decay(spec: PretrainSpec, step: int) -> float:
    """Decay of the average at update `step` (from 0): smaller at first, so that the random start is soon forgotten."""
    return min(spec.ema, (1 + step) / (10 + step))


class _Run:
    def __init__(
        self,
        spec: PretrainSpec,
        images: UInt8[np.ndarray, "n h w 3"],
        sink: PretrainSink,
        monitor: Monitor,
        workdir: Path,
        device: torch.device,
        init: Policy | None,
    ) -> None:
        self.spec, self.images, self.sink, self.monitor = spec, images, sink, monitor
        self.workdir, self.device = workdir, device
        unet = build_unet(spec)
        self.scheduler_config: dict[str, Any] = dict(DDPMScheduler(num_train_timesteps=1000).config)
        if init is not None:
            _copy_weights(init, unet)
            self.scheduler_config = init.scheduler_config
        self.alpha_bar = DDPMScheduler.from_config(self.scheduler_config).alphas_cumprod.to(device)
        self.unet = unet.to(device, memory_format=torch.channels_last).train()
        self.average = copy.deepcopy(self.unet).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.unet.parameters(), lr=spec.lr, betas=_ADAM_BETAS, weight_decay=spec.weight_decay
        )

    def execute(self, resume_from: Path | None) -> Policy:
        step = 0 if resume_from is None else self._restore(resume_from)
        losses: list[float] = []
        while step < self.spec.steps:
            if self.monitor.should_stop():
                self._save(step)
                raise JobCancelledError(f"Stopped after update {step} of {self.spec.steps}; resume goes on from there.")
            losses.append(self._update(step))
            step += 1
            is_save = step % self.spec.save_every == 0 or step == self.spec.steps
            if step % _METRICS_EVERY == 0 or is_save:
                lr = learning_rate(self.spec, step - 1)
                self.monitor.metrics({"epoch": step, "loss": sum(losses) / len(losses), "lr": lr})
                losses.clear()
            self.monitor.progress(step / self.spec.steps, stage=f"Training: update {step} of {self.spec.steps}")
            if is_save:
                self._save(step)
                self._draw_sheet(step)
        return self._policy()

    def _update(self, step: int) -> float:
        """One step of Algorithm 1; returns the loss."""
        spec = self.spec
        x_0, t, noise = self._draw_batch(step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(spec, step)
        self.optimizer.zero_grad(set_to_none=True)
        with explain_out_of_memory(spec.batch_size):
            x_t = diffuse(x_0, noise, self.alpha_bar[t]).contiguous(memory_format=torch.channels_last)
            with autocast(self.device, spec.precision):
                noise_pred = self.unet(x_t, t, return_dict=False)[0]
            loss = F.mse_loss(noise_pred.float(), noise)
            loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), _MAX_GRAD_NORM)
        self.optimizer.step()
        _move_average(self.average.parameters(), self.unet.parameters(), ema_decay(spec, step))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise JobError(f"The loss is not finite at update {step + 1}; use a lower lr or a longer warmup.")
        return value

    def _draw_batch(self, step: int) -> tuple[Float[Tensor, "b 3 h w"], Tensor, Float[Tensor, "b 3 h w"]]:
        """(x_0 in [-1, 1], timesteps, noise) of an update: images with replacement, mirrored by a coin."""
        rng, n = generator(self.spec.seed, step), self.spec.batch_size
        rows = rng.integers(len(self.images), size=n)
        mirrored = (rng.random(n) < 0.5) & self.spec.flip
        t = torch.from_numpy(rng.integers(len(self.alpha_bar), size=n))
        batch = np.stack(
            [self.images[row][:, ::-1] if flip else self.images[row] for row, flip in zip(rows, mirrored, strict=True)]
        )
        x_0 = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 127.5 - 1
        noise = torch.from_numpy(rng.standard_normal(tuple(x_0.shape), dtype=np.float32))
        return x_0.to(self.device), t.to(self.device), noise.to(self.device)

    def _policy(self) -> Policy:
        return Policy(self.average, self.scheduler_config)

    def _draw_sheet(self, step: int) -> None:
        done = step / self.spec.steps
        images = draw_samples(
            self._policy(), _SHEET_SEEDS, steps=_SHEET_STEPS, eta=1.0, monitor=self.monitor, fraction=(done, done)
        )
        self.sink.sheet(step, images)

    def _save(self, step: int) -> None:
        tensors = {f"unet.{name}": value for name, value in self.unet.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        tensors |= pack_optimizer(self.optimizer, "adamw")
        path = self.workdir / "state.safetensors"
        write_state(RunState(tensors, {"step": step, "run": self._identity()}), path)
        self.sink.save_state(step, path)

    def _restore(self, path: Path) -> int:
        state = read_state(path)
        if state.values.get("run") != self._identity():
            raise CorruptDataError(f"The resumable state {path.name} belongs to another spec or data set; start over.")
        for prefix, module in (("unet.", self.unet), ("average.", self.average)):
            module.load_state_dict(
                {key.removeprefix(prefix): value for key, value in state.tensors.items() if key.startswith(prefix)}
            )
        unpack_optimizer(self.optimizer, "adamw", state.tensors)
        return int(state.values["step"])

    def _identity(self) -> dict[str, Any]:
        return {"spec": self.spec.model_dump(mode="json"), "images": list(self.images.shape)}


def _copy_weights(init: Policy, unet: UNet2DModel) -> None:
    try:
        unet.load_state_dict(init.unet.state_dict())
    except RuntimeError as error:
        raise JobError(
            "The checkpoint to start from has another architecture than image_size and channels describe: "
            f"{str(error)[:300]}"
        ) from error


@torch.no_grad()
def _move_average(average: Iterable[Tensor], weights: Iterable[Tensor], decay: float) -> None:
    """average <- decay * average + (1 - decay) * weights, in place."""
    torch._foreach_lerp_(list(average), list(weights), 1 - decay)
