"""DDPO's two objectives as pure functions from a batch of transitions to a loss and its diagnostics.

Log-densities are joint over the D dimensions of an image, in nats. Losses are per dimension (divided by D), so that a
gradient-norm clip means the same at every image size; the ratio that IS uses is the geometric mean over dimensions,
exp(log_ratio / D), which is what the DDPO authors' code does by averaging the log-density over pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class PolicyLoss:
    """Per transition: the loss to average, the joint log ratio in nats (detached), and whether the clip cut it."""

    loss: Float[Tensor, " b"]
    log_ratio: Float[Tensor, " b"]
    clipped: Bool[Tensor, " b"]


def score_function(
    log_prob: Float[Tensor, " b"], log_prob_old: Float[Tensor, " b"], advantage: Float[Tensor, " b"], *, dimensions: int
) -> PolicyLoss:
    """DDPO_SF (arXiv:2305.13301, eq. 4.2): -A log p(x_{t-1} | x_t), right only on the policy that drew the samples."""
    log_ratio = (log_prob - log_prob_old).detach()
    return PolicyLoss(-advantage * log_prob / dimensions, log_ratio, torch.zeros_like(log_ratio, dtype=torch.bool))


def importance_sampling(
    log_prob: Float[Tensor, " b"],
    log_prob_old: Float[Tensor, " b"],
    advantage: Float[Tensor, " b"],
    *,
    dimensions: int,
    clip_nats: float,
) -> PolicyLoss:
    """DDPO_IS (arXiv:2305.13301, eq. 4.3-4.4): PPO's pessimistic clipped ratio, -min(A r, A clip(r)).

    The clip holds the joint log ratio of one transition within +/- clip_nats at every image size; per dimension that
    is clip_nats / D (the DDPO paper's 1e-4 at D = 16,384 is 1.64 nats).
    """
    log_ratio = log_prob - log_prob_old
    ratio = (log_ratio / dimensions).exp()
    clipped_ratio = (log_ratio.clamp(-clip_nats, clip_nats) / dimensions).exp()
    loss = torch.maximum(-advantage * ratio, -advantage * clipped_ratio)
    cut = torch.where(advantage > 0, log_ratio > clip_nats, log_ratio < -clip_nats) & (advantage != 0)
    return PolicyLoss(loss, log_ratio.detach(), cut)


def over_tiles(
    objective: Callable[..., PolicyLoss],
    log_prob: Float[Tensor, "b rows columns"],
    log_prob_old: Float[Tensor, "b rows columns"],
    advantage: Float[Tensor, "b rows columns"],
    *,
    dimensions: int,
    clip_nats: float | None = None,
) -> PolicyLoss:
    """One of the objectives above with an advantage for every tile of the image: spatial credit assignment.

    A transition's density is the product of its tiles', so every tile is weighed by what was earned there alone. At
    theta_old, equal advantages give the gradient of the whole image's objective. A tile gets its share of the clip;
    `clipped` says whether any tile was cut.
    """
    tiles = log_prob[0].numel()
    clip = {} if clip_nats is None else {"clip_nats": clip_nats / tiles}
    each = objective(
        log_prob.flatten(), log_prob_old.flatten(), advantage.flatten(), dimensions=dimensions // tiles, **clip
    )
    return PolicyLoss(
        each.loss.reshape(-1, tiles).mean(1),
        each.log_ratio.reshape(-1, tiles).sum(1),
        each.clipped.reshape(-1, tiles).any(1),
    )


def approx_kl(log_ratio: Float[Tensor, " b"], *, cap: float = 20.0) -> Float[Tensor, " b"]:
    """k3 = (r - 1) - log r of every transition, in nats: an estimate of KL(old || new) that is never negative
    (joschu.net/blog/kl-approx). The exponent is capped to stay finite; past the cap it says "far too large"."""
    return torch.expm1(log_ratio.clamp(max=cap)) - log_ratio.clamp(max=cap)
