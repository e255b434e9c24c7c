"""Rewards against independent computations, and the checks around them."""

import io
from importlib.metadata import EntryPoint
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image, ImageFilter

from app.domain.errors import InvalidSpecError, JobError, UnavailableError
from app.domain.specs import RewardTerm
from worker.ml.rewards import CheckedReward, CombinedReward, Reward, build_reward, catalogue, registry
from worker.ml.rewards.base import RewardInfo, RewardPlugin
from worker.ml.rewards.host import RewardHost
from worker.ml.rewards.pixels import brightness, colourfulness, sharpness

NOISE = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
GREY = np.full((1, 16, 16, 3), 128, dtype=np.uint8)


def built(name: str, **params: float) -> Reward:
    def no_preference(_: object, k: float) -> Reward:
        raise AssertionError("no learned reward was asked for")

    return build_reward([RewardTerm(name=name, params=dict(params))], preference=no_preference)


@pytest.mark.parametrize("quality", [1, 30, 95, 100])
@pytest.mark.parametrize("size", [(16, 16), (17, 31), (64, 64), (256, 200)])
def test_jpeg_rewards_are_the_kilobytes_of_the_file(quality: int, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (8, *size, 3), dtype=np.uint8)
    smooth = [np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(3))) for image in noise]
    images = np.concatenate([noise, smooth])
    images.flags.writeable = False  # as they come from a decoder
    sizes = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        sizes.append(len(file.getvalue()) / 1000)
    assert built("jpeg_incompressibility", quality=quality)(images).tolist() == sizes
    assert built("jpeg_compressibility", quality=quality)(images[::-1]).tolist() == [-size for size in sizes[::-1]]
    assert built("jpeg_compressibility", quality=quality)(images[:0]).tolist() == []


def test_a_plain_image_is_more_compressible_than_noise() -> None:
    compressibility = built("jpeg_compressibility")
    assert compressibility(GREY)[0] > compressibility(NOISE).max()


def test_brightness_is_pillows_luma() -> None:
    expected = [np.asarray(Image.fromarray(image).convert("L")).mean() / 255 for image in NOISE]
    assert brightness(NOISE) == pytest.approx(expected, abs=2e-3)


def test_sharpness_is_the_squared_laplacian_that_pillow_finds() -> None:
    grey = np.repeat(np.asarray(Image.fromarray(NOISE[0]).convert("L"))[..., None] // 8, 3, axis=2)
    kernel = ImageFilter.Kernel((3, 3), [0, 1, 0, 1, -4, 1, 0, 1, 0], scale=1, offset=128)
    laplacian = np.asarray(Image.fromarray(grey[..., 0]).filter(kernel), dtype=float)[1:-1, 1:-1] - 128
    assert sharpness(grey[None])[0] == pytest.approx((laplacian**2).mean() / 255**2, rel=1e-3)


def test_colourfulness_by_hand() -> None:
    assert colourfulness(GREY)[0] == 0
    halves = np.zeros((1, 2, 2, 3), dtype=np.uint8)
    halves[0, 0] = (255, 0, 0)  # rg: 255, 0; yb: 127.5, 0 -> equal mean and deviation of each
    spread = np.hypot(127.5, 63.75)
    assert colourfulness(halves)[0] == pytest.approx(spread + 0.3 * spread)


def test_weight_scales_a_single_reward_in_its_own_unit() -> None:
    term = RewardTerm(name="brightness", weight=-2.0)
    reward = build_reward([term], preference=lambda _, k: brightness)
    assert reward(NOISE) == pytest.approx(-2 * brightness(NOISE))


def test_a_sum_standardises_each_reward_on_the_first_images_and_keeps_that() -> None:
    terms = [RewardTerm(name="brightness"), RewardTerm(name="colourfulness", weight=0.5)]
    reward = build_reward(terms, preference=lambda _, k: brightness)
    assert isinstance(reward, CombinedReward)
    first = reward(NOISE)
    assert first.mean() == pytest.approx(0)
    one, two = brightness(NOISE), colourfulness(NOISE)
    expected = (brightness(GREY) - one.mean()) / one.std() + 0.5 * (colourfulness(GREY) - two.mean()) / two.std()
    assert reward(GREY) == pytest.approx(expected)


def test_a_sum_over_identical_reference_samples_is_refused() -> None:
    reward = CombinedReward([CheckedReward("brightness", brightness)], [1.0])
    with pytest.raises(JobError, match="brightness"):
        reward(np.repeat(GREY, 4, axis=0))


@pytest.mark.parametrize("answer", [np.array([1.0, np.nan, 2.0]), np.array([1.0, np.inf, 2.0]), np.zeros((3, 1))])
def test_an_unsound_answer_names_the_reward(answer: np.ndarray) -> None:
    with pytest.raises(JobError, match="'mine'"):
        CheckedReward("mine", lambda images: answer)(NOISE)


def test_an_unknown_reward_and_a_wrong_parameter_are_named() -> None:
    with pytest.raises(InvalidSpecError, match="no reward 'beauty'"):
        built("beauty")
    with pytest.raises(InvalidSpecError, match=r"brightness.*loudness"):
        built("brightness", loudness=3)
    with pytest.raises(InvalidSpecError, match="'quality' must be a number from 1 to 100"):
        built("jpeg_compressibility", quality=101)


def test_the_catalogue_lists_every_reward_once_and_the_learned_one(tmp_path: Path) -> None:
    names = [info.name for info in catalogue(RewardHost(weights_dir=tmp_path))]
    assert len(set(names)) == len(names)
    assert {"jpeg_compressibility", "jpeg_incompressibility", "preference"} <= set(names)


def test_a_learned_reward_is_built_with_its_caution() -> None:
    asked: list[tuple[object, float]] = []

    def load(id: object, k: float) -> Reward:
        asked.append((id, k))
        return built("brightness")

    model = uuid4()
    for params in ({}, {"k": 1.5}):
        build_reward([RewardTerm(name="preference", reward_model_id=model, params=params)], preference=load)
    assert asked == [(model, 0.0), (model, 1.5)]
    for params, sentence in (({"k": -1}, "from 0 to 100"), ({"caution": 1}, "parameter k alone, not caution")):
        with pytest.raises(InvalidSpecError, match=sentence):
            build_reward([RewardTerm(name="preference", reward_model_id=model, params=params)], preference=load)


def _describe_badly(_: RewardHost) -> RewardInfo:
    raise RuntimeError("no description today")


def _build_badly(_: RewardHost, *, size: int = 0) -> Reward:
    if size:
        return len(size)  # type: ignore[arg-type,return-value]  # a TypeError of the plugin's own
    raise RuntimeError("boom")


@pytest.fixture
def third_parties(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entry points as packages of others declare them: one that fails at every turn, one that is something else."""
    here = __name__
    points = [
        EntryPoint("faulty", f"{here}:FAULTY", registry.ENTRY_POINT_GROUP),
        EntryPoint("stranger", f"{here}:STRANGER", registry.ENTRY_POINT_GROUP),
        EntryPoint("absent", f"{here}:ABSENT", registry.ENTRY_POINT_GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    registry._plugins.cache_clear()


FAULTY = RewardPlugin("faulty", _describe_badly, _build_badly)
STRANGER = "not a plugin"


def test_a_third_partys_faults_hide_no_other_reward_and_are_told_by_name(third_parties: None) -> None:
    try:
        found = {info.name: info for info in catalogue(RewardHost())}
        assert found["jpeg_compressibility"].can_run
        for name, sentence in (
            ("faulty", "cannot describe itself: RuntimeError: no description today"),
            ("stranger", "is no RewardPlugin but a str"),
            ("absent", "cannot be imported: AttributeError"),
        ):
            assert not found[name].can_run
            assert sentence in (found[name].why_not or "")
        for params, sentence in (({}, "'faulty' could not be set up: RuntimeError: boom"), ({"size": 3}, "TypeError")):
            with pytest.raises(JobError, match=sentence):
                built("faulty", **params)
        with pytest.raises(InvalidSpecError, match="does not take these parameters"):
            built("faulty", volume=11)
        with pytest.raises(UnavailableError, match="no RewardPlugin"):
            built("stranger")
    finally:
        registry._plugins.cache_clear()


def test_settings_of_a_reward_are_told_apart_by_their_stored_name() -> None:
    one, other = (RewardTerm(name="mine", params=params) for params in ({"x": "1,y=2"}, {"x": "1", "y": "2"}))
    assert one.key != other.key
    assert RewardTerm(name="clip_similarity", params={"prompt": "a cat"}).key == "clip_similarity(prompt=a cat)"


def test_a_quality_between_two_is_refused() -> None:
    with pytest.raises(InvalidSpecError, match="whole number"):
        built("jpeg_compressibility", quality=95.9)
    assert built("jpeg_compressibility", quality=95.0)(NOISE).tolist() == built("jpeg_compressibility")(NOISE).tolist()
