"""Guidance targets equal the rewards that they stand for, have a gradient everywhere, and raise those rewards."""

import numpy as np
import pytest
import torch
from torch import Tensor

from app.domain.errors import JobError
from app.domain.guidance import DIFFERENTIABLE_REWARDS, TEXT_ENCODERS, why_no_prompt
from app.domain.rewards import PREFERENCE
from worker.ml.encoders import ENCODER_NAMES, load_encoder
from worker.ml.guidance import TargetGuidance
from worker.ml.guidance_targets import pixel_target, preference_target
from worker.ml.image_features import COLOUR_DIM
from worker.ml.policy import Policy
from worker.ml.preference import PreferenceReward
from worker.ml.progress import SilentMonitor
from worker.ml.reward_head import RewardHead
from worker.ml.rewards.pixels import brightness, colourfulness, sharpness
from worker.ml.rollout import draw_samples

PIXEL_REWARDS = {"brightness": brightness, "colourfulness": colourfulness, "sharpness": sharpness}


def noise_images(n: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def as_tensor(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def head() -> RewardHead:
    encoder = load_encoder("efficientnet-lite0")
    rng = np.random.default_rng(0)
    return RewardHead(rng.normal(size=(3, COLOUR_DIM + encoder.dim)), rng.normal(size=3), 1.0)


@pytest.mark.parametrize("name", PIXEL_REWARDS)
def test_a_pixel_target_is_the_reward(name: str) -> None:
    images = noise_images(5)
    np.testing.assert_allclose(pixel_target(name)(as_tensor(images)).numpy(), PIXEL_REWARDS[name](images), rtol=1e-4)


def test_a_preference_target_is_the_learned_reward(head: RewardHead) -> None:
    images = noise_images(3, size=64)
    encoder = load_encoder("efficientnet-lite0")
    expected = PreferenceReward(encoder, head)(images)
    found = preference_target(encoder, head)(as_tensor(images)).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", [*PIXEL_REWARDS, PREFERENCE])
def test_even_a_plain_grey_image_has_a_finite_gradient(name: str, head: RewardHead) -> None:
    target = preference_target(load_encoder("efficientnet-lite0"), head) if name == PREFERENCE else pixel_target(name)
    images = torch.full((2, 3, 32, 32), 0.5, requires_grad=True)
    target(images).sum().backward()
    assert images.grad is not None
    assert bool(torch.isfinite(images.grad).all())


@pytest.mark.parametrize("name", PIXEL_REWARDS)
def test_every_pixel_reward_rises_with_the_scale(policy: Policy, name: str) -> None:
    unit = {"brightness": 1.0, "colourfulness": 0.2, "sharpness": 0.1}[name]

    def drawn(scale: float) -> float:
        guidance = TargetGuidance(policy, pixel_target(name), scale=scale * unit) if scale else None
        images = draw_samples(policy, range(8), steps=10, eta=0.0, monitor=SilentMonitor(), guidance=guidance)
        return float(PIXEL_REWARDS[name](images).mean())

    found = [drawn(scale) for scale in (0.0, 2.5, 5.0, 10.0)]  # so strong that clipping turned the shift around once
    assert found == sorted(found)
    assert len(set(found)) == 4


def test_a_reward_without_a_gradient_is_refused_by_name() -> None:
    with pytest.raises(JobError, match="'jpeg_compressibility' has no gradient"):
        pixel_target("jpeg_compressibility")


def test_a_head_of_another_encoder_is_refused() -> None:
    encoder = load_encoder("efficientnet-lite0")
    target = preference_target(encoder, RewardHead(np.ones((1, 7)), np.zeros(1), 1.0))
    with pytest.raises(JobError, match="takes 7 features"):
        target(as_tensor(noise_images(1, size=64)))


def test_the_lists_that_forms_show_are_the_engine_s() -> None:
    assert set(TEXT_ENCODERS) < set(ENCODER_NAMES)
    assert {*PIXEL_REWARDS, PREFERENCE} == set(DIFFERENTIABLE_REWARDS)
    for name in ENCODER_NAMES:
        assert (why_no_prompt(name) is None) == (name in TEXT_ENCODERS)
