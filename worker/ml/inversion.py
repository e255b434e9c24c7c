"""DDIM inversion: the noise that a picture would have come from, and the picture drawn from it again (thesis, 2.8)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from app.domain.errors import JobError
from worker.ml import ddim
from worker.ml.policy import Policy
from worker.ml.rollout import decode

Images = UInt8[np.ndarray, "n h w 3"]


@dataclass(frozen=True)
class Inversion:
    """`latents` at the noisiest step that was reached, `reconstructions` drawn from them, PSNR of each in dB."""

    latents: Float[Tensor, "n 3 h w"]
    reconstructions: Images
    psnr: Float[np.ndarray, " n"]


def invert_and_reconstruct(policy: Policy, images: Images, *, steps: int, skip: int = 0) -> Inversion:
    """Run DDIM (eta = 0) backward from `images` and forward again.

    Args:
        images: RGB of the policy's own image size.
        skip: the noisiest steps to leave out, both ways; the more, the less of the image the model redraws.

    Raises:
        JobError: the images have another size, or nothing is left of the steps.
    """
    (inversion,) = invert_skipping(policy, images, steps=steps, skips=[skip])
    return inversion


@torch.no_grad()
def invert_skipping(
    policy: Policy,
    images: Images,
    *,
    steps: int,
    skips: Sequence[int],
    between: Callable[[int, int], None] = lambda done, total: None,
) -> list[Inversion]:
    """`invert_and_reconstruct` for several `skips`, in their order: one path backward, one forward from each.

    Args:
        between: called with the network evaluations that are done and all that are to do; may raise to stop.

    Raises:
        JobError: the images have another size, or a skip leaves no step.
    """
    if images.shape[1:3] != (policy.image_size, policy.image_size):
        height, width = images.shape[1:3]
        raise JobError(f"The images are {width}x{height}; this model needs {policy.image_size}x{policy.image_size}.")
    for skip in skips:
        if not 0 <= skip < steps:
            raise JobError(f"skip is {skip}; it must leave at least one of the {steps} steps.")
    schedule = ddim.make_schedule(policy.scheduler_config, steps=steps, eta=0.0)
    schedule = replace(schedule, clip_range=None)  # a clipped x_0_pred would cut the path back
    total = (steps - min(skips)) + sum(steps - skip for skip in skips)
    x = torch.tensor(images).to(policy.device).permute(0, 3, 1, 2).float() / 127.5 - 1
    latents: dict[int, Tensor] = {}
    done = 0
    for step in reversed(range(min(skips), steps)):
        between(done, total)
        x = _invert_step(policy, schedule, step, x)
        latents[step] = x
        done += 1
    found = []
    for skip in skips:
        x = latents[skip]
        for step in range(skip, steps):
            between(done, total)
            index, x_0_pred, noise_pred = _predict(policy, schedule, step, x)
            x = ddim.transition_mean(schedule, index, x_0_pred, noise_pred)
            done += 1
        reconstructions = decode(x)
        found.append(Inversion(latents[skip], reconstructions, psnr(images, reconstructions)))
    return found


def psnr(images: Images, others: Images) -> Float[np.ndarray, " n"]:
    """Peak signal-to-noise ratio of each pair in dB; infinite where they are equal."""
    error = ((images.astype(np.float64) - others) ** 2).mean(axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        return np.asarray(10 * np.log10(255**2 / error))


def _invert_step(policy: Policy, schedule: ddim.Schedule, step: int, x_prev: Tensor) -> Tensor:
    """x_{t-1} -> x_t, with noise_pred taken at x_{t-1} in place of x_t: the ODE's Euler step read backward."""
    _, x_0_pred, noise_pred = _predict(policy, schedule, min(step + 1, len(schedule) - 1), x_prev)
    if step == len(schedule) - 1:  # the image itself is x_0
        x_0_pred = x_prev
    alpha_bar = float(schedule.alpha_bar[step])
    x_t: Tensor = alpha_bar**0.5 * x_0_pred + (1 - alpha_bar) ** 0.5 * noise_pred
    return x_t


def _predict(
    policy: Policy, schedule: ddim.Schedule, step: int, x: Tensor
) -> tuple[Tensor, Float[Tensor, "n 3 h w"], Float[Tensor, "n 3 h w"]]:
    index = torch.full((len(x),), step, device=x.device)
    output = policy.predict(x, schedule.timesteps.to(x.device)[index])
    return index, *ddim.predict(schedule, index, x, output)
