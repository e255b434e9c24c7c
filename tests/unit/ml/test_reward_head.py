import numpy as np
import pytest
import safetensors.numpy

from app.domain.errors import CorruptDataError
from worker.ml.reward_head import RewardHead

RNG = np.random.default_rng(0)
HEAD = RewardHead(weights=RNG.standard_normal((3, 7)), bias=RNG.standard_normal(3), logit_scale=2.5)
FEATURES = RNG.standard_normal((11, 7)).astype(np.float32)


def test_mean_and_disagreement_are_those_of_the_single_heads():
    single = np.stack([FEATURES.astype(np.float64) @ w + b for w, b in zip(HEAD.weights, HEAD.bias, strict=True)])
    np.testing.assert_allclose(HEAD.mean(FEATURES), single.mean(axis=0))
    np.testing.assert_allclose(HEAD.std(FEATURES), single.std(axis=0, ddof=1))


def test_a_single_head_agrees_with_itself():
    alone = RewardHead(HEAD.weights[:1], HEAD.bias[:1], 1.0)
    np.testing.assert_array_equal(alone.std(FEATURES), 0)


def test_stored_and_read_back_it_gives_the_same_rewards_to_the_bit():
    restored = RewardHead.from_bytes(HEAD.to_bytes())
    np.testing.assert_array_equal(restored.rewards(FEATURES), HEAD.rewards(FEATURES))
    assert restored.logit_scale == HEAD.logit_scale


def test_features_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"\(n, 7\)"):
        HEAD.mean(FEATURES[:, :6])


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_torn_file_is_refused(length):
    with pytest.raises(CorruptDataError, match="train it again"):
        RewardHead.from_bytes(HEAD.to_bytes()[:length])


@pytest.mark.parametrize(
    "tensors",
    [
        {"weights": np.zeros((2, 3))},
        {"weights": np.zeros((2, 3)), "bias": np.zeros(3), "logit_scale": np.array(1.0)},
        {"weights": np.zeros((0, 3)), "bias": np.zeros(0), "logit_scale": np.array(1.0)},
        {"weights": np.full((2, 3), np.nan), "bias": np.zeros(2), "logit_scale": np.array(1.0)},
    ],
    ids=["parts missing", "shapes disagree", "no heads", "not finite"],
)
def test_a_safetensors_file_of_something_else_is_refused(tensors):
    with pytest.raises(CorruptDataError):
        RewardHead.from_bytes(safetensors.numpy.save(tensors))
