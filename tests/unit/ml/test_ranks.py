"""Two ranks over gloo, real processes: the run they share is the run of one."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_ddpo import Recorder, Sink, make_spec
from tiny import tiny_policy

from app.domain.errors import JobError
from worker.ml.ddpo import finetune
from worker.ml.ranks import AccelerateRanks, Alone, Ranks
from worker.ml.rewards import CheckedReward, CombinedReward, Reward, build_reward
from worker.ml.rewards.pixels import brightness, colourfulness
from worker.ml.state import read_state

COUNT = 2
# an odd number of samples gives the ranks unequal shares; a small adam_eps would turn rounding into whole steps
COMMON: dict[str, Any] = {"samples_per_epoch": 7, "adam_eps": 1e-3, "eval": {"every": 2, "n": 5}, "epochs": 2}
VARIANTS: dict[str, dict[str, Any]] = {
    "is, value baseline, EMA": {"inner_epochs": 2, "ema": 0.9, "advantage": {"baseline": "value"}},
    "sf, KL penalty, half of the timesteps": {"objective": "sf", "kl_coef": 0.1, "timestep_fraction": 0.5},
    "shaping, optimal baseline": {"shaping": True, "advantage": {"baseline": "optimal"}},
    "credit by tile, two mirrors": {
        "objective": "sf", "lr": {"peak": 2e-4}, "credit": "tiles", "advantage": {"per_step": True, "mirror": 2},
        "reward": {"name": "brightness"},
    },
}  # fmt: skip


def reward_of(variant: str) -> Reward:
    if "reward" not in VARIANTS[variant]:
        return sum_of_rewards()
    return build_reward(make_spec(**VARIANTS[variant]).reward, preference=pytest.fail)


def sum_of_rewards() -> CombinedReward:
    return CombinedReward(
        [CheckedReward("brightness", brightness), CheckedReward("colourfulness", colourfulness)], [1.0, -0.5]
    )


def run(variant: str, folder: Path, ranks: Ranks) -> tuple[Sink, Recorder]:
    folder.mkdir(parents=True, exist_ok=True)
    sink, monitor, spec = Sink(), Recorder(), make_spec(**COMMON, **VARIANTS[variant])
    diversity: Callable[[Any], float] = lambda images: float(images.std())  # noqa: E731
    finetune(
        tiny_policy(), spec, reward_of(variant), sink=sink, monitor=monitor, workdir=folder, ranks=ranks,
        holdout={"brightness": brightness}, diversity=diversity,
    )  # fmt: skip
    return sink, monitor


def rank_main(index: int, folder: Path) -> None:
    torch.set_num_threads(1)
    ranks = AccelerateRanks(folder / "rendezvous", index=index, count=COUNT, device=torch.device("cpu"))
    found = {variant: run(variant, folder / f"{index}-{n}", ranks) for n, variant in enumerate(VARIANTS)}
    torch.save(
        {v: (sink, monitor.rows, monitor.fractions) for v, (sink, monitor) in found.items()}, folder / f"{index}.pt"
    )
    ranks.leave()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank's sink and monitor were told, by variant."""
    folder = tmp_path_factory.mktemp("ranks")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=rank_main, args=(index, folder)) for index in range(COUNT)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * COUNT
    return [torch.load(folder / f"{index}.pt", weights_only=False) for index in range(COUNT)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_ranks_end_where_one_ends(variant: str, shared: list[dict[str, Any]], tmp_path: Path) -> None:
    alone, monitor = run(variant, tmp_path, Alone())
    sink, rows, fractions = shared[0][variant]
    assert sink.epochs_saved == alone.epochs_saved == [0, 1, 2]
    states = []
    for state in (alone.state, sink.state):
        (tmp_path / "compared.safetensors").write_bytes(state)
        states.append(read_state(tmp_path / "compared.safetensors"))
    assert states[0].tensors.keys() == states[1].tensors.keys()
    for name, tensor in states[0].tensors.items():
        torch.testing.assert_close(states[1].tensors[name], tensor, rtol=0, atol=1e-5, msg=name)
    moved = max(float((alone.weights[2][name] - alone.weights[0][name]).abs().max()) for name in alone.weights[2])
    assert moved > 1e-4
    for epoch, images in alone.images.items():
        assert np.abs(images.astype(int) - sink.images[epoch]).max() <= 1
    for row, expected in zip(rows, monitor.rows, strict=True):
        assert row.keys() == expected.keys()
        for name in ("reward_mean", "reward_quantiles", "kl_nats", "approx_kl", "log_ratio_t", "grad_norm", "lr"):
            assert row[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-3), name
    assert fractions == sorted(fractions)


def test_only_rank_0_stores_and_reports(shared: list[dict[str, Any]]) -> None:
    for sink, rows, fractions in shared[1].values():
        assert (sink.state, sink.weights, rows, fractions) == (None, {}, [], [])


def test_fewer_samples_than_ranks_are_refused(tmp_path: Path) -> None:
    class Crowd(Alone):
        count = 8

    with pytest.raises(JobError, match="8 ranks need one each"):
        finetune(
            tiny_policy(), make_spec(), brightness, sink=Sink(), monitor=Recorder(), workdir=tmp_path, ranks=Crowd()
        )
