"""DDIM (arXiv:2010.02502) as a Markov decision process: schedule, transition, log-density and KL, in fp32 or better.

`alpha_bar` is the cumulative product that the DDIM paper calls alpha; `i` counts steps from the noisiest (0).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from diffusers import DDIMScheduler
from jaxtyping import Float, Int
from torch import Tensor

from app.domain.errors import JobError


@dataclass(frozen=True)
class Schedule:
    """The transitions of one trajectory, noisiest first. All tensors have one entry a step.

    Computed in float64: near t = 0 the differences 1 - alpha_bar cancel in float32. The last transition of a model
    that ends at alpha_bar = 1 has sigma = 0, hence no density; `trainable` lists the steps that have one.
    """

    timesteps: Int[Tensor, " s"]
    alpha_bar: Float[Tensor, " s"]
    alpha_bar_prev: Float[Tensor, " s"]
    sigma: Float[Tensor, " s"]
    prediction_type: str
    clip_range: float | None

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def trainable(self) -> list[int]:
        """Step indices whose transition is stochastic."""
        return torch.nonzero(self.sigma > 0).flatten().tolist()


def make_schedule(
    scheduler_config: Mapping[str, Any],
    *,
    steps: int | Sequence[int],
    eta: float,
    window: tuple[int, int] | None = None,
) -> Schedule:
    """The schedule of `steps` out of the model's T timesteps, spaced as the model's config says ("leading" by default).

    Args:
        steps: how many, or any subsequence of the timesteps themselves, noisiest first.
        window: (start, length) of the step indices that are stochastic (MixGRPO, arXiv:2507.21802); the others run
            with eta = 0. None gives every step `eta`.

    Raises:
        JobError: more steps than the model has, no subsequence of its timesteps, or a scheduler feature that has no
            exact transition density.
    """
    config = dict(scheduler_config)
    total = int(config.get("num_train_timesteps", 1000))
    if isinstance(steps, int):
        if not 1 <= steps <= total:
            raise JobError(
                f"steps is {steps}, but this model has {total} timesteps; choose steps between 1 and {total}."
            )
    else:
        _check_subsequence(steps, total)
    if config.get("thresholding"):
        raise JobError("This model's scheduler uses dynamic thresholding, which is not supported; use clip_sample.")
    prediction_type = str(config.get("prediction_type", "epsilon"))
    if prediction_type not in ("epsilon", "sample", "v_prediction"):
        raise JobError(f"prediction_type {prediction_type!r} is unknown; use epsilon, sample or v_prediction.")

    scheduler = DDIMScheduler.from_config(config)
    if isinstance(steps, int):
        scheduler.set_timesteps(steps)
        timesteps = scheduler.timesteps.long()
    else:
        timesteps = torch.tensor(steps, dtype=torch.long)
    table = scheduler.alphas_cumprod.double()
    alpha_bar = table[timesteps]
    alpha_bar_prev = torch.cat([alpha_bar[1:], scheduler.final_alpha_cumprod.double().reshape(1)])
    etas = torch.full((len(timesteps),), eta, dtype=torch.float64)
    if window is not None:
        start, length = window
        etas[:start] = 0.0
        etas[start + length :] = 0.0
    return Schedule(
        timesteps=timesteps,
        alpha_bar=alpha_bar,
        alpha_bar_prev=alpha_bar_prev,
        sigma=ddim_sigma(alpha_bar, alpha_bar_prev, eta=etas),
        prediction_type=prediction_type,
        clip_range=float(config.get("clip_sample_range", 1.0)) if config.get("clip_sample", True) else None,
    )


def _check_subsequence(timesteps: Sequence[int], total: int) -> None:
    if len(timesteps) == 0:
        raise JobError("There are no timesteps to run; give at least one, noisiest first.")
    falling = all(later < earlier for earlier, later in pairwise(timesteps))
    if not falling or not 0 <= timesteps[-1] <= timesteps[0] < total:
        raise JobError(
            f"Timesteps must fall strictly and lie between 0 and {total - 1}, which {list(timesteps)} do not."
        )


def ddim_sigma(
    alpha_bar: Float[Tensor, " b"], alpha_bar_prev: Float[Tensor, " b"], *, eta: float | Float[Tensor, " b"]
) -> Float[Tensor, " b"]:
    r"""Standard deviation of the transition x_t -> x_{t-1}.

    sigma = eta * sqrt((1 - abar_prev) / (1 - abar)) * sqrt(1 - abar / abar_prev)
    DDIM (arXiv:2010.02502) eq. 16; the paper writes alpha for alpha_bar. eta = 0 is DDIM, eta = 1 is DDPM.
    """
    variance = (1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_prev)
    return eta * variance.clamp(min=0).sqrt()


def predict(
    schedule: Schedule, steps: Int[Tensor, " b"], x_t: Float[Tensor, "b ..."], output: Float[Tensor, "b ..."]
) -> tuple[Float[Tensor, "b ..."], Float[Tensor, "b ..."]]:
    """(x_0_pred, noise_pred) from the network's output at x_t; x_0_pred is clipped where the model's config says so."""
    if schedule.prediction_type == "epsilon":
        return x_0_from_noise(schedule, steps, x_t, output), output
    signal = _column(schedule.alpha_bar.sqrt(), steps, x_t)
    spread = _column((1 - schedule.alpha_bar).sqrt(), steps, x_t)
    if schedule.prediction_type == "sample":
        x_0_pred = output
        noise_pred = (x_t - signal * output) / spread
    else:
        x_0_pred = signal * x_t - spread * output
        noise_pred = signal * output + spread * x_t
    if schedule.clip_range is not None:
        x_0_pred = x_0_pred.clamp(-schedule.clip_range, schedule.clip_range)
    return x_0_pred, noise_pred


def x_0_from_noise(
    schedule: Schedule, steps: Int[Tensor, " b"], x_t: Float[Tensor, "b ..."], noise_pred: Float[Tensor, "b ..."]
) -> Float[Tensor, "b ..."]:
    r"""x_0_pred = (x_t - sqrt(1 - abar) noise_pred) / sqrt(abar), clipped where the model's config says so."""
    spread = _column((1 - schedule.alpha_bar).sqrt(), steps, x_t)
    x_0_pred = (x_t - spread * noise_pred) / _column(schedule.alpha_bar.sqrt(), steps, x_t)
    if schedule.clip_range is not None:
        x_0_pred = x_0_pred.clamp(-schedule.clip_range, schedule.clip_range)
    return x_0_pred


def transition_mean(
    schedule: Schedule, steps: Int[Tensor, " b"], x_0_pred: Float[Tensor, "b ..."], noise_pred: Float[Tensor, "b ..."]
) -> Float[Tensor, "b ..."]:
    r"""mu = sqrt(abar_prev) x_0_pred + sqrt(1 - abar_prev - sigma^2) noise_pred. DDIM eq. 12 without its last term."""
    direction = (1 - schedule.alpha_bar_prev - schedule.sigma**2).clamp(min=0).sqrt()
    signal = _column(schedule.alpha_bar_prev.sqrt(), steps, x_0_pred)
    return signal * x_0_pred + _column(direction, steps, x_0_pred) * noise_pred


def log_prob(
    schedule: Schedule, steps: Int[Tensor, " b"], x_prev: Float[Tensor, "b ..."], mean: Float[Tensor, "b ..."]
) -> Float[Tensor, " b"]:
    r"""log N(x_prev; mean, sigma^2 I) in nats, joint over all D dimensions, summed in float64.

    Raises:
        JobError: a step with sigma = 0 is among `steps`. It carries no density; a clamped sigma would let it drown
            every other step's gradient.
    """
    sigma = schedule.sigma.to(mean.device)[steps]
    if bool((sigma <= 0).any()):
        raise JobError("A transition with sigma = 0 has no log-density; exclude deterministic steps from training.")
    dimensions = mean[0].numel()
    residual = (x_prev - mean) / _column(schedule.sigma, steps, mean)
    squares = residual.square().flatten(1).sum(1, dtype=torch.float64)
    return -0.5 * squares - dimensions * (sigma.log() + 0.5 * math.log(2 * math.pi))


def tile_log_prob(
    schedule: Schedule,
    steps: Int[Tensor, " b"],
    x_prev: Float[Tensor, "b c h w"],
    mean: Float[Tensor, "b c h w"],
    grid: tuple[int, int],
) -> Float[Tensor, "b rows columns"]:
    r"""`log_prob` tile by tile: the pixels of a Gaussian transition are independent, so their sum is the image's.

    Args:
        grid: (rows, columns) of equal tiles.

    Raises:
        JobError: a step with sigma = 0 is among `steps`, as for `log_prob`.
    """
    sigma = schedule.sigma.to(mean.device)[steps]
    if bool((sigma <= 0).any()):
        raise JobError("A transition with sigma = 0 has no log-density; exclude deterministic steps from training.")
    (b, channels, height, width), (rows, columns) = mean.shape, grid
    residual = (x_prev - mean) / _column(schedule.sigma, steps, mean)
    tiles = residual.square().reshape(b, channels, rows, height // rows, columns, width // columns)
    dimensions = mean[0].numel() // (rows * columns)
    constant = dimensions * (sigma.log() + 0.5 * math.log(2 * math.pi))
    return -0.5 * tiles.sum((1, 3, 5), dtype=torch.float64) - constant[:, None, None]


def score_slope(schedule: Schedule) -> Float[Tensor, " s"]:
    r"""|d mu / d noise_pred| / sigma of every step: how hard one unit of noise_pred moves the log-density.

    Nearly the same at all steps but the last stochastic one, which is 10 to 20 times stiffer (sigma 0.00995 at
    t = 25). Deterministic steps have none: 0.
    """
    signal = (schedule.alpha_bar_prev * (1 - schedule.alpha_bar) / schedule.alpha_bar).sqrt()
    slope = ((1 - schedule.alpha_bar_prev - schedule.sigma**2).clamp(min=0).sqrt() - signal).abs()
    return torch.where(schedule.sigma > 0, slope / schedule.sigma, torch.zeros_like(slope))


def step_weights(schedule: Schedule, *, cap: float = 2.0) -> Float[Tensor, " s"]:
    """Weights that hold every step's score within `cap` times the median step's, so that no stiff step drowns the
    others; 1 for all but those."""
    slope = score_slope(schedule)
    median = slope[schedule.sigma > 0].median()
    return (cap * median / slope).clamp(max=1.0)


def squared_score(schedule: Schedule, log_probs: Float[Tensor, "n s"], *, dimensions: int) -> Float[Tensor, "n s"]:
    r"""|d log p / d noise_pred|^2 of every transition, from its log-density alone; 0 for deterministic steps."""
    sigma, slope = schedule.sigma.to(log_probs.device), score_slope(schedule).to(log_probs.device)
    squares = -2 * (log_probs + dimensions * (sigma.log() + 0.5 * math.log(2 * math.pi)))
    return torch.where(sigma > 0, squares * slope**2, torch.zeros_like(log_probs))


def gaussian_kl(
    schedule: Schedule, steps: Int[Tensor, " b"], mean: Float[Tensor, "b ..."], reference: Float[Tensor, "b ..."]
) -> Float[Tensor, " b"]:
    r"""KL(N(mean, sigma^2 I) || N(reference, sigma^2 I)) = |mean - reference|^2 / (2 sigma^2), in nats."""
    difference = (mean - reference) / _column(schedule.sigma, steps, mean)
    return 0.5 * difference.square().flatten(1).sum(1, dtype=torch.float64)


def _column(
    table: Float[Tensor, " s"], steps: Int[Tensor, " b"], like: Float[Tensor, "b ..."]
) -> Float[Tensor, "b ..."]:
    """`table[steps]`, shaped to broadcast over the images of `like`."""
    values = table.to(like.device)[steps].to(like.dtype)
    return values.reshape(-1, *[1] * (like.ndim - 1))
