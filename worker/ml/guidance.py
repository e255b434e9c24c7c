"""Guidance at sampling time: the gradient of a target at x_0_pred, turned into a shift of noise_pred (thesis, 2.6)."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from app.domain.errors import JobError
from worker.ml import ddim
from worker.ml.ddim import Schedule
from worker.ml.policy import Policy

Target = Callable[[Float[Tensor, "b 3 h w"]], Float[Tensor, " b"]]
"""A differentiable function of RGB in [0, 1]; guidance raises it."""


@runtime_checkable
class TextEncoder(Protocol):
    """An encoder with a trained text tower, as CLIP has."""

    has_text: bool

    def embed(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Embeddings of RGB in [0, 1], differentiable."""
        ...

    def encode_text(self, texts: list[str]) -> Float[np.ndarray, "n d"]:
        """Embeddings of texts in the same space."""
        ...


class TargetGuidance:
    """Classifier guidance (arXiv:2105.05233, eq. 14) with the target evaluated at x_0_pred.

    noise_pred - scale * sqrt(1 - abar) * d target(x_0_pred(x_t)) / d x_t: the gradient runs through the network.
    """

    def __init__(self, policy: Policy, target: Target, *, scale: float) -> None:
        self._policy = policy
        self._target = target
        self._scale = scale

    @torch.enable_grad()
    def __call__(self, x_t: Tensor, schedule: Schedule, step: int) -> Tensor:
        """The shift of noise_pred."""
        x = x_t.detach().requires_grad_()
        index = torch.full((len(x),), step, device=x.device)
        output = self._policy.predict(x, schedule.timesteps.to(x.device)[index])
        x_0_pred, _ = ddim.predict(schedule, index, x, output)
        (gradient,) = torch.autograd.grad(self._target(x_0_pred * 0.5 + 0.5).sum(), x)
        shift: Tensor = -self._scale * float((1 - schedule.alpha_bar[step]).sqrt()) * gradient
        return shift


def clip_guidance(policy: Policy, encoder: object, prompt: str, *, scale: float) -> TargetGuidance:
    """Guidance that raises the cosine similarity of the image's and the prompt's embeddings.

    Raises:
        JobError: the encoder has no trained text tower, so no text can steer it.
    """
    if not isinstance(encoder, TextEncoder) or not encoder.has_text:
        raise JobError(
            f"The encoder {getattr(encoder, 'name', encoder)!r} was not trained with text, so a prompt cannot steer "
            "it; choose a CLIP encoder (ViT-B-32 or ViT-L-14)."
        )
    text = F.normalize(torch.from_numpy(encoder.encode_text([prompt])).to(policy.device), dim=1)[0]

    def similarity(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        return F.normalize(encoder.embed(images), dim=1) @ text

    return TargetGuidance(policy, similarity, scale=scale)
