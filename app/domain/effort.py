"""What a run costs in network evaluations, known before it starts; the engine counts the same ones while it works."""

import math
from dataclasses import dataclass

from app.domain.specs import FinetuneSpec

_KL_SAMPLES = 8  # trajectories whose KL is measured (worker.ml.rollout.KL_SAMPLES)

UPDATE_WEIGHT = 3.4
"""Seconds of an update's evaluation relative to a rollout's (forward and backward), until both were measured."""


@dataclass(frozen=True)
class FinetuneEffort:
    """Network evaluations of one epoch's two phases and of one evaluation, and how many evaluations there are."""

    rollout: int
    update: int
    evaluation: int
    n_epochs: int
    n_evaluations: int


def finetune_effort(spec: FinetuneSpec) -> FinetuneEffort:
    """Counts of a whole run, the evaluation of its base included."""
    n_stochastic = spec.steps - 1  # the last step has no noise
    n_trained = spec.sde_window.length if spec.sde_window else n_stochastic
    kept = max(1, math.ceil(spec.timestep_fraction * n_trained))
    last_is_extra = spec.epochs % spec.eval.every > 0
    first = spec.sde_window.start if spec.sde_window else 0
    mirrored = range(first + max(0, n_trained - spec.advantage.mirror), first + n_trained)
    a_sample = spec.steps + sum(spec.steps - 1 - step for step in mirrored)
    return FinetuneEffort(
        rollout=spec.samples_per_epoch * a_sample + min(_KL_SAMPLES, spec.samples_per_epoch) * n_trained,
        update=spec.samples_per_epoch * kept * spec.inner_epochs,
        evaluation=spec.eval.n * spec.steps + min(_KL_SAMPLES, spec.eval.n) * n_stochastic,
        n_epochs=spec.epochs,
        n_evaluations=1 + spec.epochs // spec.eval.every + last_is_extra,
    )
