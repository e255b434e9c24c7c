"""Credit by tile and mirrored noise: exact where it must be, unbiased with less variance where the truth is known."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_ddpo import Recorder, Sink, assert_same_state, make_spec, run
from tiny import tiny_policy
from torch import Tensor

from app.domain.errors import InvalidSpecError, JobCancelledError, JobError
from app.domain.specs import FinetuneSpec
from worker.ml import ddim, mirrored, objectives, rollout
from worker.ml.advantages import mirror_steps, rewards_to_go, standardise
from worker.ml.rewards import CheckedReward, CombinedReward, Images
from worker.ml.rewards.jpeg import JpegSize
from worker.ml.rewards.pixels import Brightness, brightness, luma

GRID, EDGE, CHANNELS = (2, 2), 4, 3
DIMENSIONS = CHANNELS * EDGE * EDGE
SIGMA = torch.tensor([0.7], dtype=torch.float64)
ONE_STEP = ddim.Schedule(torch.arange(1), SIGMA, SIGMA, SIGMA, "epsilon", None)  # log densities read sigma alone
THETA, TARGET = 0.4, 1.5


class TiledBrightness:
    """Mean luma, and what each quarter of the image adds to it."""

    def __call__(self, images: Images) -> np.ndarray:
        return brightness(images)

    def reward_map(self, images: Images) -> np.ndarray:
        n, height, width, _ = images.shape
        return np.asarray(luma(images).reshape(n, 2, height // 2, 2, width // 2).mean(axis=(2, 4)) / 4)


def draw(n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """(x, z) of the one-step policy N(theta, sigma^2 I)."""
    z = torch.randn(n, CHANNELS, EDGE, EDGE, generator=rng, dtype=torch.float64)
    return THETA + SIGMA * z, z


def tile_rewards(x: Tensor) -> Tensor:
    """[n, 2, 2]: minus the squared distance to the target, which is a sum over tiles."""
    n = len(x)
    return -(x - TARGET).square().reshape(n, CHANNELS, 2, 2, 2, 2).sum((1, 3, 5))


def gradient(x: Tensor, advantage: Tensor, objective: str = "sf") -> float:
    """d/d theta of the expected reward, as one batch estimates it."""
    theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)
    steps, clip = torch.zeros(len(x), dtype=torch.long), {"clip_nats": 50.0} if objective == "is" else {}
    pure = objectives.importance_sampling if objective == "is" else objectives.score_function
    if advantage.ndim == 3:
        new = ddim.tile_log_prob(ONE_STEP, steps, x, theta.expand_as(x), GRID)
        result = objectives.over_tiles(pure, new, new.detach(), advantage, dimensions=DIMENSIONS, **clip)
    else:
        new = ddim.log_prob(ONE_STEP, steps, x, theta.expand_as(x))
        result = pure(new, new.detach(), advantage, dimensions=DIMENSIONS, **clip)
    (found,) = torch.autograd.grad(-result.loss.mean() * DIMENSIONS, theta)
    return float(found)


def test_tile_log_densities_sum_to_the_images() -> None:
    x, _ = draw(5, torch.Generator().manual_seed(0))
    steps, mean = torch.zeros(5, dtype=torch.long), torch.full_like(x, THETA)
    tiles = ddim.tile_log_prob(ONE_STEP, steps, x, mean, GRID)
    torch.testing.assert_close(tiles.sum((1, 2)), ddim.log_prob(ONE_STEP, steps, x, mean))
    upper_left = torch.distributions.Normal(THETA, SIGMA).log_prob(x[:, :, :2, :2]).sum((1, 2, 3))
    torch.testing.assert_close(tiles[:, 0, 0], upper_left)


def test_tiles_of_a_deterministic_step_are_refused() -> None:
    still = ddim.Schedule(torch.arange(1), SIGMA, SIGMA, 0 * SIGMA, "epsilon", None)
    x = torch.zeros(1, CHANNELS, EDGE, EDGE)
    with pytest.raises(JobError, match="sigma = 0"):
        ddim.tile_log_prob(still, torch.zeros(1, dtype=torch.long), x, x, GRID)


@pytest.mark.parametrize("objective", ["sf", "is"])
def test_equal_advantages_of_all_tiles_give_the_gradient_of_the_whole_image(objective: str) -> None:
    x, _ = draw(64, torch.Generator().manual_seed(1))
    advantage = tile_rewards(x).sum((1, 2))
    by_tile = advantage[:, None, None].expand(-1, *GRID)
    assert gradient(x, by_tile, objective) == pytest.approx(gradient(x, advantage, objective), rel=1e-12)


def test_a_tile_gets_its_share_of_the_clip() -> None:
    log_prob = torch.tensor([[[0.3, 0.0], [0.0, 0.0]], [[0.2, 0.2], [0.2, 0.2]]], dtype=torch.float64)
    result = objectives.over_tiles(
        objectives.importance_sampling, log_prob, 0 * log_prob, torch.ones(2, 2, 2), dimensions=48, clip_nats=1.0
    )
    assert result.clipped.tolist() == [True, False]
    assert result.log_ratio.tolist() == pytest.approx([0.3, 0.8])


@pytest.mark.parametrize(("way", "below"), [("tiles", 0.6), ("mirrored", 1.0), ("mirrored tiles", 0.6)])
def test_a_separable_rewards_estimate_is_unbiased_and_varies_less(
    way: str, below: float, record_property: Callable[[str, object], None]
) -> None:
    rng = torch.Generator().manual_seed(2)
    plain, found = [], []
    for _ in range(400):
        x, z = draw(16, rng)
        here = tile_rewards(x)
        plain.append(gradient(x, here.sum((1, 2)) - here.sum((1, 2)).mean()))
        relative = here - here.mean(0) if way == "tiles" else (here - tile_rewards(x - 2 * SIGMA * z)) / 2
        found.append(gradient(x, relative.sum((1, 2)) if way == "mirrored" else relative))
    truth = 2 * DIMENSIONS * (TARGET - THETA) * (15 / 16 if way == "tiles" else 1)  # of -D ((theta - c)^2 + sigma^2)
    assert abs(np.mean(found) - truth) < 3 * np.std(found, ddof=1) / 20
    record_property("variance_ratio", float(np.var(found) / np.var(plain)))
    assert np.var(found) < below * np.var(plain)


def test_what_noise_and_its_mirror_image_do_alike_is_gone() -> None:
    _, z = draw(8, torch.Generator().manual_seed(3))
    even, mirrored_even = z.square().sum((1, 2, 3)).numpy(), (-z).square().sum((1, 2, 3)).numpy()
    returns = rewards_to_go(even, None, steps=3)
    table = mirror_steps(returns, even, {2: mirrored_even})
    assert np.all(table[:, 2] == 0)
    assert np.array_equal(table[:, :2], returns[:, :2])


def test_steps_can_be_standardised_apart() -> None:
    table = np.random.default_rng(0).standard_normal((50, 2, 2, 2)) * np.array([1.0, 100.0])[None, :, None, None]
    together, apart = standardise(table, clip=9.0), standardise(table, clip=9.0, per_step=True)
    assert apart.std(axis=(0, 2, 3)) == pytest.approx([1, 1])
    assert together[:, 0].std() < 0.02


def test_a_mirrored_trajectory_is_the_one_with_that_steps_noise_turned_round(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, seeds = tiny_policy(), [3, 4, 5]
    schedule = ddim.make_schedule(policy.scheduler_config, steps=5, eta=1.0)
    trajectories = rollout.collect(policy, seeds, schedule, batch_size=2)
    evaluations: list[int] = []
    ends = mirrored.mirrored_images(
        policy, trajectories, schedule, [1, 3], batch_size=2, between_batches=evaluations.append
    )
    draw_noise = rollout.noise_of_step
    for images, step in zip(ends, (1, 3), strict=True):

        def turned(seeds: list[int], at: int, *args: object, turn: int = step + 1, **kwargs: object) -> Tensor:
            return draw_noise(seeds, at, *args, **kwargs) * (-1 if at == turn else 1)

        monkeypatch.setattr(rollout, "noise_of_step", turned)
        expected = rollout.collect(policy, seeds, schedule, batch_size=3).images
        assert np.abs(images.astype(int) - expected).max() <= 1  # x_prev - 2 sigma z rounds otherwise
        assert (images != trajectories.images).any()
    assert sum(evaluations) == 3 * (3 + 1)
    assert mirrored.mirrored_steps(schedule, 2) == [2, 3]
    assert mirrored.mirrored_evaluations(schedule, 2) == 2 + 1


@pytest.mark.parametrize("quality", [50, 95])
def test_the_map_of_a_jpegs_bytes_adds_up_to_its_file(quality: int) -> None:
    rng = np.random.default_rng(4)
    noise = rng.integers(0, 256, size=(6, 64, 64, 3)).astype(np.float64)
    ramp = np.linspace(0, 255, 64)[None, None, :, None]
    shares = np.array([0.05, 0.1, 0.2, 0.3, 0.6, 1.0])[:, None, None, None]
    images = (ramp * (1 - shares) + noise * shares).astype(np.uint8)
    blocks = JpegSize(sign=1, quality=quality).reward_map(images)
    assert blocks.shape == (6, 8, 8)
    for image, found in zip(images, blocks, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="JPEG", quality=quality)
        data = buffer.getvalue()
        scan = data[data.index(b"\xff\xda") + 14 : -2]  # the scan's header takes 14 bytes, the end marker 2
        assert found.sum() * 1000 == pytest.approx(len(scan) - scan.count(b"\xff\x00"), rel=0.03)


def test_a_jpegs_bytes_are_where_the_detail_is() -> None:
    image = np.full((1, 64, 64, 3), 90, np.uint8)
    image[0, 16:32, 32:48] = np.random.default_rng(5).integers(0, 256, size=(16, 16, 3))
    blocks = JpegSize(sign=-1).reward_map(image)[0]
    assert blocks[2:4, 4:6].sum() < 0.8 * blocks.sum() < 0


def test_a_jpegs_map_says_which_sizes_it_takes() -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        JpegSize(sign=1).reward_map(np.zeros((1, 24, 64, 3), np.uint8))


def test_brightness_is_the_sum_of_its_map() -> None:
    images = np.random.default_rng(7).integers(0, 256, size=(5, 16, 24, 3), dtype=np.uint8)
    tiles = Brightness().reward_map(images)
    assert tiles.shape == (5, 2, 3)
    assert tiles.sum(axis=(1, 2)) == pytest.approx(Brightness()(images))
    assert tiles[0, 1, 2] * 6 == pytest.approx(brightness(images[:1, 8:, 16:])[0])


def test_a_weighted_sum_of_maps_adds_up_to_the_sum_of_rewards() -> None:
    images = np.random.default_rng(6).integers(0, 256, size=(5, 8, 8, 3), dtype=np.uint8)
    terms = [CheckedReward("one", TiledBrightness()), CheckedReward("two", TiledBrightness())]
    reward = CombinedReward(terms, [1.0, -0.25])
    rewards = reward(images)
    totals = reward.reward_map(images).sum(axis=(1, 2))
    assert np.ptp(totals - rewards) < 1e-9


TILED = {
    "credit": "tiles",
    "shaping": True,
    "advantage": {"per_step": True, "mirror": 2, "baseline": "ema"},
    "inner_epochs": 2,
}


def test_a_run_by_tile_that_was_stopped_and_resumed_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    spec, whole, halves = make_spec(**TILED), Sink(), Sink()
    recorder = Recorder()
    run(spec, tmp_path, sink=whole, reward=TiledBrightness(), monitor=recorder)
    assert recorder.rows[-1]["network_evaluations"] == 6 * (5 + 2 + 1) + 6 * 4 + 6 * 4 * 2  # mirrors, KL, updates
    stop = Recorder(stop_at=recorder.questions // 2)
    with pytest.raises(JobCancelledError):
        run(spec, tmp_path, sink=halves, reward=TiledBrightness(), monitor=stop)
    run(spec, tmp_path, sink=halves, reward=TiledBrightness(), state=halves.state)
    assert_same_state(whole, halves, tmp_path)


def test_without_momentum_and_scaling_an_update_is_as_long_as_the_spec_says(tmp_path: Path) -> None:
    plain = {"adam_beta1": 0.0, "adam_eps": 1.0, "weight_decay": 0.0, "max_grad_norm": 1e-4, "lr": {"peak": 0.5}}
    sink = Sink()
    run(make_spec(**plain, epochs=2, updates_per_epoch=1, eval={"every": 1, "n": 2}), tmp_path, sink=sink)
    for before, after in ((0, 1), (1, 2)):
        moved = [sink.weights[after][name] - sink.weights[before][name] for name in sink.weights[0]]
        assert float(torch.cat([m.flatten() for m in moved]).norm()) == pytest.approx(0.5 * 1e-4, rel=0.01)


def test_a_reward_that_cannot_say_where_is_refused_at_the_start(tmp_path: Path) -> None:
    for reward in (brightness, CheckedReward("brightness", brightness)):
        sink = Sink()
        with pytest.raises(JobError, match="cannot say where"):
            run(make_spec(credit="tiles"), tmp_path, sink=sink, reward=reward)
        assert sink.images == {}


def test_more_mirrored_steps_than_stochastic_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"advantage\.mirror is 5"):
        run(make_spec(advantage={"mirror": 5}), tmp_path, sink=Sink())


def test_the_value_baseline_is_refused_with_tiles() -> None:
    fields = make_spec().model_dump(mode="json") | {"credit": "tiles", "advantage": {"baseline": "value"}}
    with pytest.raises((InvalidSpecError, ValueError), match="whole images"):
        FinetuneSpec.model_validate(fields)
