"""DDIM inversion on the bundled model: there and back again."""

import numpy as np
import pytest
import torch

from app.domain.errors import JobError
from worker.ml.inversion import invert_and_reconstruct, invert_skipping, psnr
from worker.ml.policy import Policy, load_policy
from worker.ml.pretrained import BUNDLED
from worker.ml.progress import SilentMonitor
from worker.ml.rollout import draw_samples


@pytest.fixture(scope="module")
def critters() -> Policy:
    return load_policy(BUNDLED["critters-64"])


def test_a_model_sample_comes_back_in_50_steps(critters: Policy) -> None:
    images = draw_samples(critters, [1, 2], steps=50, eta=0.0, monitor=SilentMonitor())
    assert invert_and_reconstruct(critters, images, steps=50).psnr.min() >= 25


def test_an_outside_image_comes_back_better_the_more_steps_are_skipped(critters: Policy) -> None:
    rows, columns = np.mgrid[0:64, 0:64]
    outside = np.stack([rows * 4, columns * 4, (rows // 8 + columns // 8) % 2 * 255], axis=-1).astype(np.uint8)[None]
    found = [float(invert_and_reconstruct(critters, outside, steps=20, skip=skip).psnr[0]) for skip in (0, 10, 17)]
    assert found == sorted(found)
    assert found[-1] > found[0] + 3


def test_psnr_by_hand() -> None:
    black = np.zeros((1, 2, 2, 3), dtype=np.uint8)
    assert psnr(black, black + 51)[0] == pytest.approx(20 * np.log10(5))
    assert psnr(black, black)[0] == np.inf


@pytest.mark.parametrize(("size", "skip", "because"), [(32, 0, "32x32"), (64, 20, "at least one")])
def test_what_cannot_be_inverted_is_refused(critters: Policy, size: int, skip: int, because: str) -> None:
    with pytest.raises(JobError, match=because):
        invert_and_reconstruct(critters, np.zeros((1, size, size, 3), dtype=np.uint8), steps=20, skip=skip)


def test_several_skips_share_one_path_back_and_change_nothing(policy: Policy) -> None:
    images = draw_samples(policy, range(2), steps=10, eta=0.0, monitor=SilentMonitor())
    calls: list[tuple[int, int]] = []
    together = invert_skipping(
        policy, images, steps=10, skips=[0, 4, 8], between=lambda done, total: calls.append((done, total))
    )
    for skip, found in zip((0, 4, 8), together, strict=True):
        alone = invert_and_reconstruct(policy, images, steps=10, skip=skip)
        assert torch.equal(found.latents, alone.latents)
        assert np.array_equal(found.reconstructions, alone.reconstructions)
    assert calls == [(done, 10 + 10 + 6 + 2) for done in range(28)]
