"""The learned reward: an ensemble of linear heads over image features, stored as one safetensors file."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import safetensors.numpy
from jaxtyping import Float
from safetensors import SafetensorError

from app.domain.errors import CorruptDataError

_SHAPES = {"weights": 2, "bias": 1, "logit_scale": 0}


@dataclass(frozen=True, eq=False)
class RewardHead:
    """Rewards r_e(x) = weights[e] . x + bias[e] of `e` heads.

    The unit is the standard deviation, and the zero the mean, of the mean reward on the images that the head was
    trained beside (its reference set). `logit_scale` leads back to preferences:
    P(i preferred to j) = sigmoid(logit_scale * (r(i) - r(j))).
    """

    weights: Float[np.ndarray, "e d"]
    bias: Float[np.ndarray, " e"]
    logit_scale: float

    @property
    def dim(self) -> int:
        """Number of features that the head takes."""
        return int(self.weights.shape[1])

    def rewards(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "e n"]:
        """Rewards of every head."""
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise ValueError(f"this reward head takes features of shape (n, {self.dim}), not {features.shape}")
        return np.asarray(self.weights @ features.T.astype(np.float64) + self.bias[:, None])

    def mean(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Mean reward over the heads."""
        return np.asarray(self.rewards(features).mean(axis=0))

    def std(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Disagreement of the heads (sample standard deviation); 0 where there is only one."""
        rewards = self.rewards(features)
        return np.asarray(rewards.std(axis=0, ddof=1) if len(rewards) > 1 else np.zeros(len(features)))

    def to_bytes(self) -> bytes:
        """A safetensors file."""
        tensors = {
            "weights": np.ascontiguousarray(self.weights, np.float64),
            "bias": np.ascontiguousarray(self.bias, np.float64),
            "logit_scale": np.array(self.logit_scale, np.float64),
        }
        return safetensors.numpy.save(tensors)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The head that `to_bytes` stored.

        Raises:
            CorruptDataError: the bytes are torn, or they are a safetensors file of something else.
        """
        try:
            tensors = safetensors.numpy.load(data)
        except (SafetensorError, ValueError, KeyError) as error:
            raise CorruptDataError(
                f"The stored reward model is not a readable safetensors file ({error}); train it again."
            ) from error
        shapes = {name: tensor.ndim for name, tensor in tensors.items()}
        if shapes != _SHAPES or len(tensors["weights"]) != len(tensors["bias"]) or len(tensors["bias"]) == 0:
            raise CorruptDataError(
                f"The stored reward model holds {sorted(tensors)}, not a reward head; train it again."
            )
        if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
            raise CorruptDataError("The stored reward model holds numbers that are not finite; train it again.")
        return cls(tensors["weights"], tensors["bias"], float(tensors["logit_scale"]))
