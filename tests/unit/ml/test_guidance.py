"""Guidance raises its target, more with a larger scale, and refuses what it cannot follow."""

from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float
from tiny import tiny_policy
from torch import Tensor

from app.domain.errors import JobError
from worker.ml import ddim
from worker.ml.guidance import TargetGuidance, clip_guidance
from worker.ml.policy import Policy
from worker.ml.progress import SilentMonitor
from worker.ml.rollout import draw_samples


def redness(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    return images[:, 0].mean(dim=(1, 2)) - images[:, 2].mean(dim=(1, 2))


def test_the_target_rises_with_every_scale(policy: Policy) -> None:
    def drawn(guidance: TargetGuidance | None) -> float:
        images = draw_samples(policy, range(8), steps=10, eta=0.0, monitor=SilentMonitor(), guidance=guidance)
        return float(redness(torch.from_numpy(images).permute(0, 3, 1, 2).double()).mean())

    found = [drawn(None), *(drawn(TargetGuidance(policy, redness, scale=scale)) for scale in (0.25, 0.5, 1.0))]
    assert found == sorted(found)
    assert len(set(found)) == 4


def test_the_shift_is_the_gradient_through_the_network(policy: Policy) -> None:
    schedule = ddim.make_schedule({**policy.scheduler_config, "clip_sample": False}, steps=10, eta=0.0)
    x, nudge, step = torch.randn(1, 3, 8, 8), torch.randn(1, 3, 8, 8), 4
    shift = TargetGuidance(policy, redness, scale=2.0)(x, schedule, step)

    def target(at: Tensor) -> float:
        with torch.no_grad():
            output = policy.predict(at, schedule.timesteps[[step]])
        x_0_pred, _ = ddim.predict(schedule, torch.tensor([step]), at, output)
        return float(redness(x_0_pred * 0.5 + 0.5))

    slope = (target(x + 1e-2 * nudge) - target(x - 1e-2 * nudge)) / 2e-2
    expected = -2.0 * float((1 - schedule.alpha_bar[step]).sqrt()) * slope
    assert float((shift * nudge).sum()) == pytest.approx(expected, rel=1e-2, abs=1e-5)


class Words:
    """A joint space of one colour word: images by their mean colour, texts by the colour they name."""

    has_text = True

    def embed(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))

    def encode_text(self, texts: list[str]) -> Any:
        return np.array([[1.0, 0.0, 0.0] for _ in texts], dtype=np.float32)


def test_a_prompt_raises_the_cosine_similarity() -> None:
    policy = tiny_policy()

    def similarity(scale: float) -> float:
        guidance = clip_guidance(policy, Words(), "red", scale=scale) if scale else None
        images = draw_samples(policy, range(8), steps=10, eta=0.0, monitor=SilentMonitor(), guidance=guidance)
        colour = images.reshape(8, -1, 3).mean(axis=1)
        return float((colour[:, 0] / np.linalg.norm(colour, axis=1)).mean())

    found = [similarity(scale) for scale in (0.0, 0.5, 1.0, 2.0)]
    assert found == sorted(found)
    assert len(set(found)) == 4


def test_an_encoder_without_a_text_tower_is_refused(policy: Policy) -> None:
    class Blind(Words):
        has_text = False

    with pytest.raises(JobError, match="was not trained with text"):
        clip_guidance(policy, Blind(), "red", scale=1.0)
