"""A learned value function V(x_t, t) as the baseline: REINFORCE with advantage, the thesis's Algorithm 4."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from worker.ml.ddim import Schedule
from worker.ml.noise import generator
from worker.ml.ranks import Alone, Ranks
from worker.ml.rollout import Trajectories
from worker.ml.state import pack_optimizer, unpack_optimizer

_STREAM = (1 << 62) | (1 << 61)
_BATCH = 64
_LR = 1e-3
_EDGE = 32


class ValueNet(nn.Module):
    """Expected return from x_t at timestep t. Zero before it is trained, whatever it is shown."""

    def __init__(self, channels: int = 3, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.AdaptiveAvgPool2d(_EDGE),
            nn.Conv2d(channels, width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )
        self.head = nn.Sequential(nn.Linear(16 * width + 8, 64), nn.SiLU(), nn.Linear(64, 1))
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """`t` is the timestep's share of T, in [0, 1]."""
        frequencies = 2.0 ** torch.arange(4, device=t.device)
        phases = math.pi * t[:, None] * frequencies
        features = torch.cat([self.body(x_t), phases.sin(), phases.cos()], dim=1)
        values: Tensor = self.head(features)[:, 0]
        return values


class ValueBaseline:
    """V and its optimiser. It is read before it is fitted to an epoch: it never knows the returns it is set against."""

    def __init__(
        self, seed: int, *, num_train_timesteps: int, device: torch.device, ranks: Ranks | None = None
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = ValueNet()
        self.net.to(device)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=_LR)
        self.scale: tuple[float, float] | None = None
        """(mean, standard deviation) of the first epoch's returns: the unit that V is learned in."""
        self._seed = seed
        self._total = num_train_timesteps
        self._ranks = ranks or Alone()

    @torch.no_grad()
    def predict(self, trajectories: Trajectories, schedule: Schedule) -> Float[np.ndarray, "n s"]:
        """V(x_t, t) at every step of every trajectory, in the reward's unit; 0 before the first fit."""
        n, steps = trajectories.log_prob.shape
        if self.scale is None:
            return np.zeros((n, steps))
        mean, std = self.scale
        rows, columns = np.divmod(np.arange(n * steps), steps)
        values = [self.net(*self._inputs(trajectories, schedule, *part)) for part in _batches(rows, columns)]
        return np.asarray(mean + std * torch.cat(values).double().cpu().numpy().reshape(n, steps))

    def fit(
        self, epoch: int, trajectories: Trajectories, schedule: Schedule, returns: Float[np.ndarray, "n s"]
    ) -> float:
        """One pass of regression on this epoch's returns, in an order that (seed, epoch) fixes; the mean squared error
        as a share of the first epoch's variance. `trajectories` are this rank's, `returns` those of all."""
        if self.scale is None:
            self.scale = float(returns.mean()), max(float(returns.std()), 1e-8)
        mean, std = self.scale
        order = generator(self._seed, _STREAM | epoch).permutation(returns.size)
        rows, columns = np.divmod(order, returns.shape[1])
        losses = []
        for part_rows, part_columns in _batches(rows, columns):
            mine = part_rows % self._ranks.count == self._ranks.index
            own_rows, own_columns = part_rows[mine], part_columns[mine]
            target = torch.from_numpy((returns[own_rows, own_columns] - mean) / std).float()
            x_t, t = self._inputs(trajectories, schedule, own_rows // self._ranks.count, own_columns)
            errors = (self.net(x_t, t) - target.to(x_t.device)).square().sum() / len(part_rows)
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(errors)
            self._ranks.add_up([weights.grad for weights in self.net.parameters() if weights.grad is not None])
            self.optimizer.step()
            losses.append(float(errors.detach()))
        return float(np.sum(self._ranks.everyone(np.mean(losses))))

    def pack(self) -> dict[str, Tensor]:
        """Tensors for the resumable state."""
        weights = {f"value.net.{name}": tensor for name, tensor in self.net.state_dict().items()}
        return weights | pack_optimizer(self.optimizer, "value.optimizer")

    def unpack(self, tensors: dict[str, Tensor], scale: tuple[float, float] | None) -> None:
        """Restore what `pack` gave."""
        prefix = "value.net."
        self.net.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
        unpack_optimizer(self.optimizer, "value.optimizer", tensors)
        self.scale = scale

    def _inputs(
        self, trajectories: Trajectories, schedule: Schedule, rows: np.ndarray, columns: np.ndarray
    ) -> tuple[Tensor, Float[Tensor, " b"]]:
        steps: Int[Tensor, " b"] = torch.from_numpy(columns)
        t = schedule.timesteps[steps].float() / self._total
        x = trajectories.x
        return x[torch.from_numpy(rows).to(x.device), steps.to(x.device)], t.to(x.device)


def _batches(rows: np.ndarray, columns: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(rows), _BATCH):
        yield rows[start : start + _BATCH], columns[start : start + _BATCH]
