"""DDPO's two objectives as pure functions from a batch of transitions to a loss and its diagnostics.

Log-densities are joint over the D dimensions of an image, in nats. Losses are per dimension (divided by D), so that a
gradient-norm clip means the same at every image size; the ratio that IS uses is the geometric mean over dimensions,
exp(log_ratio / D), which is what the DDPO authors' code does by averaging the log-density over pixels.
"""

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


def approx_kl(log_ratio: Float[Tensor, " b"], *, cap: float = 20.0) -> Float[Tensor, " b"]:
    """k3 = (r - 1) - log r of every transition, in nats: an estimate of KL(old || new) that is never negative
    (joschu.net/blog/kl-approx). The exponent is capped to stay finite; past the cap it says "far too large"."""
    return torch.expm1(log_ratio.clamp(max=cap)) - log_ratio.clamp(max=cap)
