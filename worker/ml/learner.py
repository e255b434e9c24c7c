"""The trained side of a finetune: weights, optimiser, EMA, and the update from a batch of transitions."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from app.domain.enums import Objective, Precision
from app.domain.errors import JobError
from app.domain.specs import FinetuneSpec
from worker.ml import ddim, objectives
from worker.ml.ddim import Schedule
from worker.ml.lr import lr_at
from worker.ml.memory import explain_out_of_memory
from worker.ml.noise import generator
from worker.ml.policy import Policy
from worker.ml.ranks import Alone, Ranks
from worker.ml.rollout import Trajectories, autocast

RATIO_TOLERANCE = {Precision.FP32: 1e-5, Precision.BF16: 1e-2}
"""How far from 1 the ratio (per dimension) may be before an epoch's first update. Rollout and update run the same
network on the same fp32 states, so on a CPU the two agree to the bit in bf16 too; bf16's is for devices whose kernels
round otherwise at another batch size. It catches dropout and changed weights, not a mix of precisions (2.4e-3)."""
_SHUFFLE_STREAM = 1 << 62  # keeps the shuffle's random streams apart from those of samples


@dataclass(frozen=True)
class UpdateReport:
    """Means over all transitions of an epoch's updates; lists have one entry a trained step, noisiest first."""

    approx_kl: float
    clip_fraction: float
    ratio_max_dev: float
    grad_norm: float
    lr: float
    clip_fraction_t: list[float | None]
    log_ratio_t: list[float | None]
    grad_norm_t: list[float | None]


class Learner:
    """AdamW on the policy's weights (or its adapters), with clipping, a schedule and an EMA.

    `policy` is trained in place; `reference` is the frozen policy that the KL is measured to. With several `ranks`,
    each runs the transitions of its own trajectories and all take the same step.
    """

    def __init__(self, policy: Policy, reference: Policy, spec: FinetuneSpec, ranks: Ranks | None = None) -> None:
        self.policy = policy
        self.reference = reference
        self.parameters = {name: p for name, p in policy.unet.named_parameters() if p.requires_grad}
        self.ema = {name: p.detach().clone() for name, p in self.parameters.items()} if spec.ema > 0 else {}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=spec.lr.peak,
            betas=(spec.adam_beta1, 0.999),
            eps=spec.adam_eps,
            weight_decay=spec.weight_decay,
            fused=True,
        )
        self._spec = spec
        self._ranks = ranks or Alone()
        self._updates_per_epoch = spec.updates_per_epoch * spec.inner_epochs

    def transitions_per_epoch(self, trainable: int) -> int:
        """Transitions that one epoch's updates run through the network."""
        return self._spec.samples_per_epoch * self._steps_kept(trainable) * self._spec.inner_epochs

    def learn(
        self,
        epoch: int,
        trajectories: Trajectories,
        advantages: Float[Tensor, "n s ..."],
        schedule: Schedule,
        *,
        between_batches: Callable[[int], None],
    ) -> UpdateReport:
        """Run one epoch's updates. All randomness follows from (spec.seed, epoch, inner epoch).

        Args:
            trajectories: this rank's; so are `advantages`.

        Raises:
            JobError: the ratio is not 1 before the first update, or the loss is not finite.
        """
        tally = _Tally(len(schedule))
        norms: list[float] = []
        done = (epoch - 1) * self._updates_per_epoch
        for inner in range(self._spec.inner_epochs):
            rows, steps = self._shuffled(epoch, inner, schedule.trainable)
            for chunk in np.array_split(np.arange(len(rows)), min(self._spec.updates_per_epoch, len(rows))):
                self.optimizer.zero_grad(set_to_none=True)
                mine = chunk[rows[chunk] % self._ranks.count == self._ranks.index]
                for start in range(0, len(mine), self._spec.batch_size):
                    batch = mine[start : start + self._spec.batch_size]
                    first = not norms and start == 0
                    with explain_out_of_memory(len(batch)):
                        here = rows[batch] // self._ranks.count
                        self._accumulate(
                            trajectories, advantages, schedule, here, steps[batch], len(chunk), tally, first
                        )
                    between_batches(len(batch))
                norms.append(self._step(done + len(norms)))
        tally.add_up(self._ranks)
        return tally.report(schedule, norm=float(np.mean(norms)), lr=self.optimizer.param_groups[0]["lr"])

    @contextmanager
    def averaged(self) -> Iterator[Policy]:
        """The policy with the EMA's weights in place of the trained ones, for as long as the block runs."""
        held = {name: self.parameters[name].detach().clone() for name in self.ema}
        with torch.no_grad():
            for name, average in self.ema.items():
                self.parameters[name].copy_(average)
        try:
            yield self.policy
        finally:
            with torch.no_grad():
                for name, weights in held.items():
                    self.parameters[name].copy_(weights)

    def _steps_kept(self, trainable: int) -> int:
        return max(1, math.ceil(self._spec.timestep_fraction * trainable))

    def _shuffled(self, epoch: int, inner: int, trainable: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """(sample, step) pairs: a random share of every sample's steps, all shuffled together."""
        rng = generator(self._spec.seed, _SHUFFLE_STREAM | epoch << 8 | inner)
        n, kept = self._spec.samples_per_epoch, self._steps_kept(len(trainable))
        steps = rng.permuted(np.tile(np.asarray(trainable), (n, 1)), axis=1)[:, :kept]
        order = rng.permutation(n * kept)
        return np.repeat(np.arange(n), kept)[order], steps.reshape(-1)[order]

    def _accumulate(
        self,
        trajectories: Trajectories,
        advantages: Float[Tensor, "n s ..."],
        schedule: Schedule,
        rows: np.ndarray,
        steps: np.ndarray,
        transitions_in_update: int,
        tally: "_Tally",
        first: bool,
    ) -> None:
        """Add one batch's share of the update's gradient."""
        device = trajectories.x.device
        row, step = torch.from_numpy(rows).to(device), torch.from_numpy(steps).to(device)
        x_t = trajectories.x[row, step]
        timesteps = schedule.timesteps.to(device)[step]
        with autocast(device, self._spec.precision):
            output = self.policy.predict(x_t, timesteps)
        output.retain_grad()
        mean = ddim.transition_mean(schedule, step, *ddim.predict(schedule, step, x_t, output))
        x_prev, advantage, dimensions = trajectories.x[row, step + 1], advantages[row, step], x_t[0].numel()
        result = self._objective(trajectories, schedule, row, step, x_prev, mean, advantage)
        if first:
            self._require_ratio_one(result.log_ratio / dimensions)
        loss = result.loss
        if self._spec.kl_coef > 0:
            with torch.no_grad(), autocast(device, self._spec.precision):
                reference = self.reference.predict(x_t, timesteps)
            anchor = ddim.transition_mean(schedule, step, *ddim.predict(schedule, step, x_t, reference))
            loss = loss + self._spec.kl_coef * ddim.gaussian_kl(schedule, step, mean, anchor) / dimensions
        weights = ddim.step_weights(schedule).to(device)[step]
        total = (weights * loss).sum() / transitions_in_update
        if not bool(torch.isfinite(total)):
            raise JobError("The loss is not finite; lower lr.peak or clip_nats, or train in fp32.")
        torch.autograd.backward(total)
        assert output.grad is not None
        grad_norms = output.grad.flatten(1).norm(dim=1) * transitions_in_update
        tally.add(steps, result, grad_norms, dimensions)

    def _objective(
        self,
        trajectories: Trajectories,
        schedule: Schedule,
        row: Tensor,
        step: Tensor,
        x_prev: Float[Tensor, "b c h w"],
        mean: Float[Tensor, "b c h w"],
        advantage: Float[Tensor, "b ..."],
    ) -> objectives.PolicyLoss:
        """The spec's objective, of whole images or, where the advantages say so, tile by tile."""
        is_ppo, dimensions = self._spec.objective is Objective.IS, mean[0].numel()
        objective = objectives.importance_sampling if is_ppo else objectives.score_function
        clip = {"clip_nats": self._spec.clip_nats} if is_ppo else {}
        if trajectories.tile_log_prob is None:
            log_prob, old = ddim.log_prob(schedule, step, x_prev, mean), trajectories.log_prob[row, step]
            return objective(log_prob, old, advantage, dimensions=dimensions, **clip)
        log_prob = ddim.tile_log_prob(schedule, step, x_prev, mean, (advantage.shape[1], advantage.shape[2]))
        old = trajectories.tile_log_prob[row, step]
        return objectives.over_tiles(objective, log_prob, old, advantage, dimensions=dimensions, **clip)

    def _require_ratio_one(self, log_ratio_per_dimension: Float[Tensor, " b"]) -> None:
        deviation = float(torch.expm1(log_ratio_per_dimension).abs().max())
        tolerance = RATIO_TOLERANCE[self._spec.precision]
        if not deviation < tolerance:
            raise JobError(
                f"Before the first update of an epoch the ratio must be 1, but it is off by {deviation:.1e} (allowed: "
                f"{tolerance:.0e}). Rollout and update do not compute the same density: look for dropout, a weight "
                "that changed in between, or a precision that differs."
            )

    def _step(self, update: int) -> float:
        """One optimiser update from all ranks' gradients; returns the gradient norm before clipping."""
        if self._ranks.count > 1:
            for parameter in self.parameters.values():
                if parameter.grad is None:  # none of this update's transitions were this rank's
                    parameter.grad = torch.zeros_like(parameter)
            self._ranks.add_up([parameter.grad for parameter in self.parameters.values() if parameter.grad is not None])
        norm = float(nn.utils.clip_grad_norm_(self.parameters.values(), self._spec.max_grad_norm))
        if not math.isfinite(norm):
            raise JobError("The gradient is not finite; lower lr.peak or train in fp32.")
        for group in self.optimizer.param_groups:
            group["lr"] = lr_at(self._spec.lr, update, self._spec.epochs * self._updates_per_epoch)
        self.optimizer.step()
        for name, average in self.ema.items():
            average.lerp_(self.parameters[name].detach(), 1 - self._spec.ema)
        return norm


class _Tally:
    """Sums of an epoch's diagnostics, per step."""

    def __init__(self, steps: int) -> None:
        self._count = np.zeros(steps)
        self._clipped = np.zeros(steps)
        self._log_ratio = np.zeros(steps)
        self._grad_norm = np.zeros(steps)
        self._approx_kl = np.zeros(steps)
        self._ratio_max_dev = 0.0

    def add(
        self, steps: np.ndarray, result: objectives.PolicyLoss, grad_norms: Float[Tensor, " b"], dimensions: int
    ) -> None:
        for total, values in (
            (self._clipped, result.clipped),
            (self._log_ratio, result.log_ratio),
            (self._grad_norm, grad_norms),
            (self._approx_kl, objectives.approx_kl(result.log_ratio)),
        ):
            np.add.at(total, steps, values.detach().double().cpu().numpy())
        np.add.at(self._count, steps, 1.0)
        deviation = float(torch.expm1(result.log_ratio / dimensions).abs().max())
        self._ratio_max_dev = max(self._ratio_max_dev, deviation)

    def add_up(self, ranks: Ranks) -> None:
        """Make every rank's sums those of all."""
        for total in (self._count, self._clipped, self._log_ratio, self._grad_norm, self._approx_kl):
            total[:] = np.sum(ranks.everyone(total), axis=0)
        self._ratio_max_dev = max(ranks.everyone(self._ratio_max_dev))

    def report(self, schedule: Schedule, *, norm: float, lr: float) -> UpdateReport:
        count = max(1.0, float(self._count.sum()))

        def per_step(total: np.ndarray) -> list[float | None]:
            return [
                float(total[step] / self._count[step]) if self._count[step] else None for step in schedule.trainable
            ]

        return UpdateReport(
            approx_kl=float(self._approx_kl.sum() / count),
            clip_fraction=float(self._clipped.sum() / count),
            ratio_max_dev=self._ratio_max_dev,
            grad_norm=norm,
            lr=lr,
            clip_fraction_t=per_step(self._clipped),
            log_ratio_t=per_step(self._log_ratio),
            grad_norm_t=per_step(self._grad_norm),
        )
