"""Drawing samples and trajectories from a policy; the noise belongs to the seed, so batching never changes a sample."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from app.domain.enums import Precision
from worker.ml import ddim
from worker.ml.ddim import Schedule
from worker.ml.lanes import side_by_side
from worker.ml.memory import explain_out_of_memory
from worker.ml.noise import START, noise_of_step
from worker.ml.policy import Policy
from worker.ml.progress import Monitor

KL_SAMPLES = 8
"""Trajectories whose KL to the reference is measured; each costs one more evaluation a step."""

Images = UInt8[np.ndarray, "n h w 3"]


class Guidance(Protocol):
    """Steers sampling: a term that is added to noise_pred, of the same shape."""

    def __call__(self, x_t: Tensor, schedule: Schedule, step: int) -> Tensor:
        """The shift of noise_pred at x_t, which is `schedule.timesteps[step]` for the whole batch."""
        ...


@dataclass(frozen=True)
class Trajectories:
    """What one epoch's rollouts leave behind, in rollout order.

    `x` holds x_t before every step and x_0 last: exactly the tensors that `log_prob` was computed of, in fp32.
    """

    seeds: Sequence[int]
    x: Float[Tensor, "n s+1 c h w"]
    log_prob: Float[Tensor, "n s"]  # float64; NaN where sigma = 0
    kl: Float[Tensor, "k s"]  # nats to the reference at every step, of the first k samples; 0 where sigma = 0
    x_0_images: UInt8[np.ndarray, "n s h w 3"] | None  # decoded x_0_pred, where asked for
    tile_log_prob: Float[Tensor, "n s rows columns"] | None = None  # log_prob by tile, where asked for

    @property
    def images(self) -> Images:
        return decode(self.x[:, -1])


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """bf16 for the network alone; scheduler maths and log-densities are fp32 whatever the precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision is Precision.BF16)


def decode(x: Float[Tensor, "n 3 h w"]) -> Images:
    """[-1, 1] to uint8 pixels: x * 0.5 + 0.5, clamped to [0, 1], x 255, rounded to nearest."""
    pixels = x.detach().float().mul(0.5).add(0.5).clamp(0, 1).mul(255).round()
    images: Images = pixels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return images


def draw_samples(
    policy: Policy,
    seeds: Sequence[int],
    *,
    steps: int | Sequence[int],
    eta: float,
    monitor: Monitor,
    batch_size: int = 16,
    guidance: Guidance | None = None,
    fraction: tuple[float, float] = (0.0, 1.0),
    on_batch: Callable[[Sequence[int], Images], None] | None = None,
) -> Images:
    """Draw one image a seed with DDIM (`eta` 0) to DDPM (`eta` 1, Algorithm 2 when `steps` = T).

    Args:
        steps: how many, or the timesteps themselves, noisiest first.
        batch_size: the largest; see `worker.ml.lanes.plan`.
        fraction: the share of the whole job that this call covers, for progress.
        on_batch: called with the seeds and images of every finished batch, in order.

    Raises:
        JobCancelledError: a stop was asked for; the batches of which progress was reported went to `on_batch`.
        JobError: the schedule is impossible, or memory ran out (names the batch size to try).
    """
    schedule = ddim.make_schedule(policy.scheduler_config, steps=steps, eta=eta)

    def draw(batch: Sequence[int], go_on: Callable[[], None]) -> Images:
        with torch.no_grad(), explain_out_of_memory(len(batch)):
            x = noise_of_step(batch, START, policy.image_shape, device=policy.device)
            for step in range(len(schedule)):
                go_on()
                x = _step(policy, schedule, batch, step, x, guidance=guidance).x_prev
        return decode(x)

    start, end = fraction
    size = policy.image_size
    drawn: list[Images] = [np.empty((0, size, size, 3), dtype=np.uint8)]
    done = 0
    with side_by_side(
        draw, seeds, batch_size=batch_size, image_size=size, device=policy.device, should_stop=monitor.should_stop
    ) as batches:
        for batch, images in batches:
            drawn.append(images)
            if on_batch is not None:
                on_batch(batch, images)
            done += len(batch)
            share = start + (end - start) * done / len(seeds)
            monitor.progress(share, stage=f"Drawing samples: {done} of {len(seeds)}")
    return np.concatenate(drawn)


def collect(
    policy: Policy,
    seeds: Sequence[int],
    schedule: Schedule,
    *,
    batch_size: int,
    precision: Precision = Precision.FP32,
    reference: Policy | None = None,
    kl_samples: int = KL_SAMPLES,
    keep_x_0_images: bool = False,
    grid: tuple[int, int] | None = None,
    between_batches: Callable[[int], None] = lambda evaluations: None,
    between_steps: Callable[[], None] = lambda: None,
) -> Trajectories:
    """Roll the policy out for every seed and keep what an update needs.

    Args:
        reference: the frozen policy to measure the KL of the first `kl_samples` trajectories to.
        keep_x_0_images: also decode x_0_pred at every step, for rewards on the way.
        grid: (rows, columns) of the tiles whose log-densities are kept as well, for spatial credit.
        between_batches: called after every batch with the network evaluations it took; may raise to stop.
        between_steps: called before every step; may raise to stop.
    """
    steps = len(schedule)
    shape = (len(seeds), steps + 1, *policy.image_shape)
    x_all = torch.empty(shape, device=policy.device)
    log_probs = torch.full((len(seeds), steps), torch.nan, dtype=torch.float64, device=policy.device)
    tile_log_probs = None if grid is None else log_probs.new_full((*log_probs.shape, *grid), torch.nan)
    size = policy.image_size
    x_0_images = np.empty((len(seeds), steps, size, size, 3), np.uint8) if keep_x_0_images else None
    kl = torch.zeros((min(kl_samples, len(seeds)) if reference is not None else 0, steps), dtype=torch.float64)
    stochastic = set(schedule.trainable)
    for first in range(0, len(seeds), batch_size):
        batch = seeds[first : first + batch_size]
        rows = slice(first, first + len(batch))
        compared = max(0, min(len(kl) - first, len(batch)))
        evaluations = len(batch) * steps + compared * len(stochastic)
        with torch.no_grad(), explain_out_of_memory(len(batch)):
            x = noise_of_step(batch, START, policy.image_shape, device=policy.device)
            for step in range(steps):
                between_steps()
                x_all[rows, step] = x
                result = _step(policy, schedule, batch, step, x, precision=precision)
                if step in stochastic:
                    index = torch.full((len(batch),), step, device=x.device)
                    log_probs[rows, step] = ddim.log_prob(schedule, index, result.x_prev, result.mean)
                    if grid is not None and tile_log_probs is not None:
                        tiles = ddim.tile_log_prob(schedule, index, result.x_prev, result.mean, grid)
                        tile_log_probs[rows, step] = tiles
                    if reference is not None and compared:
                        kl[first : first + compared, step] = _kl_to(
                            reference, schedule, step, x[:compared], result, precision
                        )
                x = result.x_prev
                if x_0_images is not None:
                    x_0_images[rows, step] = decode(result.x_0_pred)
            x_all[rows, steps] = x
        between_batches(evaluations)
    return Trajectories(seeds, x_all, log_probs, kl, x_0_images, tile_log_probs)


def roll_on(
    policy: Policy,
    seeds: Sequence[int],
    schedule: Schedule,
    x: Float[Tensor, "b c h w"],
    *,
    first: int,
    precision: Precision = Precision.FP32,
) -> Float[Tensor, "b c h w"]:
    """x_0 from `x`, the state before step index `first`, with the noise that belongs to `seeds`."""
    with torch.no_grad(), explain_out_of_memory(len(seeds)):
        for step in range(first, len(schedule)):
            x = _step(policy, schedule, seeds, step, x, precision=precision).x_prev
    return x


@dataclass(frozen=True)
class StepResult:
    x_prev: Float[Tensor, "b c h w"]
    mean: Float[Tensor, "b c h w"]
    x_0_pred: Float[Tensor, "b c h w"]


def _step(
    policy: Policy,
    schedule: Schedule,
    seeds: Sequence[int],
    step: int,
    x_t: Float[Tensor, "b c h w"],
    *,
    guidance: Guidance | None = None,
    precision: Precision = Precision.FP32,
) -> StepResult:
    """One transition of the whole batch; deterministic steps draw no noise."""
    index, x_0_pred, noise_pred = _predict(policy, schedule, step, x_t, precision)
    if guidance is not None:
        shifted = ddim.x_0_from_noise(schedule, index, x_t, noise_pred + guidance(x_t, schedule, step))
        # noise_pred follows x_0_pred as far as clipping lets it move; else the half of a shift that is left turns back
        alpha_bar = float(schedule.alpha_bar[step])
        noise_pred = noise_pred - (alpha_bar / (1 - alpha_bar)) ** 0.5 * (shifted - x_0_pred)
        x_0_pred = shifted
    mean = ddim.transition_mean(schedule, index, x_0_pred, noise_pred)
    sigma = float(schedule.sigma[step])
    if sigma == 0:
        return StepResult(mean, mean, x_0_pred)
    noise = noise_of_step(seeds, step + 1, policy.image_shape, device=x_t.device)
    return StepResult(mean + sigma * noise, mean, x_0_pred)


def _kl_to(
    reference: Policy, schedule: Schedule, step: int, x_t: Tensor, result: StepResult, precision: Precision
) -> Float[Tensor, " b"]:
    """KL of the policy's transition to the reference's, at the same x_t."""
    index, x_0_pred, noise_pred = _predict(reference, schedule, step, x_t, precision)
    mean = ddim.transition_mean(schedule, index, x_0_pred, noise_pred)
    return ddim.gaussian_kl(schedule, index, result.mean[: len(x_t)], mean).cpu()


def _predict(
    policy: Policy, schedule: Schedule, step: int, x_t: Tensor, precision: Precision
) -> tuple[Int[Tensor, " b"], Tensor, Tensor]:
    """(step index of every row, x_0_pred, noise_pred)."""
    index = torch.full((len(x_t),), step, device=x_t.device)
    timesteps = schedule.timesteps.to(x_t.device)[index]
    with autocast(x_t.device, precision):
        output = policy.predict(x_t, timesteps)
    return index, *ddim.predict(schedule, index, x_t, output)
