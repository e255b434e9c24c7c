"""A whole finetune on a tiny policy: it learns, resumes bit for bit, refuses what is unsound, and stops when told."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import torch
from tiny import tiny_policy

from app.domain.enums import Precision
from app.domain.errors import CorruptDataError, JobCancelledError, JobError
from app.domain.specs import FinetuneSpec
from worker.ml import ddim
from worker.ml.ddpo import Outcome, finetune
from worker.ml.learner import RATIO_TOLERANCE
from worker.ml.policy import Policy, load_policy
from worker.ml.pretrained import BUNDLED
from worker.ml.progress import SilentMonitor
from worker.ml.rewards import CheckedReward, CombinedReward, Images
from worker.ml.rewards.pixels import brightness, colourfulness
from worker.ml.state import RunState, read_state, write_state


def make_spec(**fields: Any) -> FinetuneSpec:
    defaults: dict[str, Any] = {
        "checkpoint_id": UUID(int=0),
        "reward": {"name": "brightness"},
        "epochs": 3,
        "samples_per_epoch": 6,
        "steps": 5,
        "batch_size": 7,
        "updates_per_epoch": 2,
        "eval": {"every": 2, "n": 4},
        "lr": {"peak": 1e-3, "warmup": 0.3, "floor": 1e-5},
        "shaping": False,
    }
    return FinetuneSpec.model_validate(defaults | fields)


class Recorder(SilentMonitor):
    """A monitor that remembers, and asks for a stop at its n-th question."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.rows: list[dict[str, Any]] = []
        self.fractions: list[float] = []
        self.questions = 0
        self._stop_at = stop_at

    def metrics(self, row: Any) -> None:
        if row["epoch"] == 0:  # the base, evaluated before the first epoch
            return
        self.rows.append({name: value for name, value in row.items() if not name.startswith("seconds_")})

    def progress(self, fraction: float, *, stage: str) -> None:
        self.fractions.append(fraction)

    def should_stop(self) -> bool:
        self.questions += 1
        return self.questions == self._stop_at


class Sink:
    def __init__(self) -> None:
        self.state: bytes | None = None
        self.epochs_saved: list[int] = []
        self.weights: dict[int, dict[str, torch.Tensor]] = {}
        self.images: dict[int, np.ndarray] = {}

    def save_state(self, epoch: int, path: Path) -> None:
        self.state = path.read_bytes()
        self.epochs_saved.append(epoch)

    def evaluated(self, epoch: int, policy: Policy, seeds: Sequence[int], images: Images, rewards: np.ndarray) -> None:
        self.weights[epoch] = copy.deepcopy(policy.unet.state_dict())
        self.images[epoch] = images


def run(
    spec: FinetuneSpec,
    tmp_path: Path,
    *,
    sink: Sink,
    monitor: Recorder | None = None,
    state: bytes | None = None,
    reward: Any = brightness,
    policy: Policy | None = None,
    **extra: Any,
) -> Outcome:
    resume_from = None
    if state is not None:
        resume_from = tmp_path / "resume.safetensors"
        resume_from.write_bytes(state)
    return finetune(
        policy or tiny_policy(),
        spec,
        reward,
        sink=sink,
        monitor=monitor or Recorder(),
        workdir=tmp_path,
        resume_from=resume_from,
        **extra,
    )


def assert_same_state(one: Sink, other: Sink, tmp_path: Path) -> None:
    states = []
    for sink in (one, other):
        assert sink.state is not None
        (tmp_path / "compared.safetensors").write_bytes(sink.state)
        states.append(read_state(tmp_path / "compared.safetensors"))
    assert states[0].values == states[1].values
    assert states[0].tensors.keys() == states[1].tensors.keys()
    for name, tensor in states[0].tensors.items():
        assert torch.equal(tensor, states[1].tensors[name]), name


VARIANTS = {
    "is": {"objective": "is", "ema": 0.9, "inner_epochs": 2, "advantage": {"baseline": "value"}},
    "sf": {"objective": "sf", "ema": 0.9, "advantage": {"baseline": "value"}},
    "ema-baseline": {"advantage": {"baseline": "ema"}, "shaping": True, "kl_coef": 0.01},
    "window": {"sde_window": {"start": 1, "length": 2}, "timestep_fraction": 0.5},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_interrupted_at_a_random_batch_and_resumed_equals_uninterrupted(variant: str, tmp_path: Path) -> None:
    spec = make_spec(**VARIANTS[variant])
    whole, whole_monitor = Sink(), Recorder()
    outcome = run(spec, tmp_path, sink=whole, monitor=whole_monitor)
    stop_at = int(np.random.default_rng(len(variant)).integers(3, whole_monitor.questions))

    cut, cut_monitor = Sink(), Recorder(stop_at)
    with pytest.raises(JobCancelledError):
        run(spec, tmp_path, sink=cut, monitor=cut_monitor)
    assert cut.state is not None
    again = run(spec, tmp_path, sink=cut, monitor=cut_monitor, state=cut.state)

    assert again == outcome
    assert cut.weights[3].keys() == whole.weights[3].keys()
    for name, weights in whole.weights[3].items():
        assert torch.equal(weights, cut.weights[3][name]), name
    assert not torch.equal(whole.weights[3]["conv_in.weight"], whole.weights[0]["conv_in.weight"])
    assert np.array_equal(whole.images[3], cut.images[3])
    assert whole_monitor.rows == cut_monitor.rows
    assert_same_state(whole, cut, tmp_path)  # optimiser, EMA, baselines and all


def test_the_weights_of_a_sum_of_rewards_survive_a_resume(tmp_path: Path) -> None:
    def reward() -> CombinedReward:
        parts = [CheckedReward("brightness", brightness), CheckedReward("colourfulness", colourfulness)]
        return CombinedReward(parts, [1.0, -0.5])

    whole, cut = Sink(), Sink()
    run(make_spec(), tmp_path, sink=whole, reward=reward())
    with pytest.raises(JobCancelledError):
        run(make_spec(), tmp_path, sink=cut, reward=reward(), monitor=Recorder(stop_at=5))
    run(make_spec(), tmp_path, sink=cut, reward=reward(), state=cut.state)
    assert_same_state(whole, cut, tmp_path)


def test_it_learns_what_it_is_rewarded_for(tmp_path: Path) -> None:
    monitor = Recorder()
    spec = make_spec(epochs=12, samples_per_epoch=32, batch_size=32, lr={"peak": 2e-3}, eval={"every": 12, "n": 32})
    run(spec, tmp_path, sink=Sink(), monitor=monitor)
    first, last = monitor.rows[0], monitor.rows[-1]
    assert last["reward_mean"] - first["reward_mean"] > 10 * first["reward_std"] / 32**0.5


def test_every_row_tells_the_run(tmp_path: Path) -> None:
    monitor, sink = Recorder(), Sink()
    holdout = {"colourfulness": colourfulness}
    run(make_spec(), tmp_path, sink=sink, monitor=monitor, holdout=holdout, diversity=lambda images: 2.0)
    assert [row["epoch"] for row in monitor.rows] == [1, 2, 3]
    assert sink.epochs_saved == [0, 1, 2, 3]
    assert sorted(sink.weights) == [0, 2, 3]
    row = monitor.rows[-1]
    assert row["timesteps"] == [800, 600, 400, 200]
    assert all(len(row[name]) == 4 for name in ("clip_fraction_t", "log_ratio_t", "grad_norm_t"))
    assert row["network_evaluations"] == 6 * 5 + 6 * 4 + 6 * 4
    assert (row["diversity"], row["holdout_colourfulness"] > 0) == (2.0, True)
    assert monitor.rows[0]["kl_nats"] < 1e-3 < row["kl_nats"]
    assert monitor.fractions == sorted(monitor.fractions)
    assert monitor.fractions[-1] == pytest.approx(1.0)


def test_scoring_the_trajectories_of_the_fixed_seeds_changes_nothing_about_the_run(tmp_path: Path) -> None:
    plain, scored = Recorder(), Recorder()
    one, other = Sink(), Sink()
    run(make_spec(), tmp_path, sink=one, monitor=plain)
    run(make_spec(eval={"every": 2, "n": 4, "trajectory": 3}), tmp_path, sink=other, monitor=scored)
    for epoch, weights in one.weights.items():
        assert all(torch.equal(weights[name], other.weights[epoch][name]) for name in weights)
    for row, expected in zip(scored.rows, plain.rows, strict=True):
        along = row.pop("eval_trajectories", None)
        assert row == expected
        assert (along is not None) == (row["epoch"] in other.weights)
        if along is not None:  # the last step is deterministic: what it predicts is the sample
            last = np.reshape(along, (4, 3))[:, -1]
            np.testing.assert_allclose(last, brightness(other.images[row["epoch"]]), atol=1e-6)


@pytest.mark.parametrize(("model", "samples"), [("tiny", 8), ("critters-64", 2)])
def test_gradient_norms_stay_within_50_times_their_median_at_every_timestep(
    model: str, samples: int, tmp_path: Path
) -> None:
    monitor = Recorder()
    policy = tiny_policy() if model == "tiny" else load_policy(BUNDLED[model])
    spec = make_spec(epochs=1, steps=20, samples_per_epoch=samples, eval={"every": 1, "n": 1})
    run(spec, tmp_path, sink=Sink(), monitor=monitor, policy=policy)
    norms = monitor.rows[0]["grad_norm_t"]
    assert len(norms) == 19
    assert max(norms) < 50 * float(np.median(norms))


def test_training_on_the_deterministic_step_ends_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ddim.Schedule, "trainable", property(lambda schedule: list(range(len(schedule)))))
    with pytest.raises(JobError, match="sigma = 0 has no log-density"):
        run(make_spec(), tmp_path, sink=Sink())


def test_a_network_that_is_not_the_same_twice_fails_the_ratio_check(tmp_path: Path) -> None:
    policy = tiny_policy(dropout=0.5)
    policy.unet.train()
    with pytest.raises(JobError, match="ratio must be 1"):
        run(make_spec(), tmp_path, sink=Sink(), policy=policy)


@pytest.mark.parametrize("precision", list(Precision))
def test_the_ratio_is_one_before_the_first_update_at_any_batch_size(
    precision: Precision, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The tolerance that ends a run, and how far from it this machine is: one update, so nothing has changed yet."""
    for batch_size in (1, 5, 30):
        monitor = Recorder()
        spec = make_spec(epochs=1, precision=precision, updates_per_epoch=1, batch_size=batch_size)
        run(spec, tmp_path, sink=Sink(), monitor=monitor)
        deviation = monitor.rows[0]["ratio_max_dev"]
        record_property(f"ratio_max_dev at batch size {batch_size}", deviation)
        assert deviation < RATIO_TOLERANCE[precision]
    assert RATIO_TOLERANCE == {Precision.FP32: 1e-5, Precision.BF16: 1e-2}


def test_bf16_learns_along_the_gradient_of_fp32(tmp_path: Path) -> None:
    """One plain step each, on the same bf16 rollouts' seeds: autocast rounds the network, not the scheduler's maths."""
    moved = []
    for precision in Precision:
        sink = Sink()
        spec = make_spec(epochs=1, precision=precision, updates_per_epoch=1, samples_per_epoch=16, adam_eps=1.0)
        run(spec, tmp_path, sink=sink)
        moved.append(torch.cat([(sink.weights[1][name] - sink.weights[0][name]).flatten() for name in sink.weights[0]]))
    assert float(torch.cosine_similarity(moved[0], moved[1], dim=0)) > 0.95


@pytest.mark.parametrize(
    ("answer", "because"),
    [(lambda images: np.full(len(images), np.nan), "NaN"), (lambda images: np.zeros((len(images), 1)), "shape")],
)
def test_an_unsound_reward_ends_the_job_with_the_last_state_intact(answer: Any, because: str, tmp_path: Path) -> None:
    calls = 0

    def turns_bad(images: Images) -> np.ndarray:
        nonlocal calls
        calls += 1
        return answer(images) if calls > 2 else brightness(images)

    sink = Sink()
    with pytest.raises(JobError, match=f"'mine'.*{because}"):
        run(make_spec(), tmp_path, sink=sink, reward=CheckedReward("mine", turns_bad))
    assert sink.epochs_saved[-1] == 1
    assert run(make_spec(), tmp_path, sink=sink, state=sink.state).epochs == 3


def test_a_torn_altered_or_foreign_state_is_refused(tmp_path: Path) -> None:
    sink = Sink()
    run(make_spec(epochs=1), tmp_path, sink=sink)
    assert sink.state is not None
    altered = bytearray(sink.state)
    altered[-100] ^= 1
    for state, because in ((sink.state[:-50], "cannot be read"), (bytes(altered), "hash")):
        with pytest.raises(CorruptDataError, match=because):
            run(make_spec(epochs=1), tmp_path, sink=Sink(), state=state)
    with pytest.raises(CorruptDataError, match="another spec"):
        run(make_spec(epochs=1, seed=1), tmp_path, sink=Sink(), state=sink.state)


def test_a_state_that_could_not_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.safetensors"
    write_state(RunState({"weights": torch.ones(3)}, {"epoch": 1}), path)

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_state(RunState({"weights": torch.zeros(3)}, {"epoch": 2}), path)
    found = read_state(path)
    assert (found.values, found.tensors["weights"].tolist()) == ({"epoch": 1}, [1.0, 1.0, 1.0])


def test_running_out_of_memory_in_an_update_names_the_batch_size_and_keeps_the_last_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first epoch fits; the second one's update asks the allocator for more than any machine has."""
    sink, policy = Sink(), tiny_policy()
    plain, calls = policy.unet.forward, 0

    def grows(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += torch.is_grad_enabled()
        if calls > 8 and torch.is_grad_enabled():
            torch.empty(1 << 60)
        return plain(*args, **kwargs)

    monkeypatch.setattr(policy.unet, "forward", grows)
    with pytest.raises(JobError, match=r"batches of [57] images; try batch_size [23]"):
        run(make_spec(), tmp_path, sink=sink, policy=policy)
    assert sink.epochs_saved[-1] >= 1
    assert run(make_spec(), tmp_path, sink=sink, state=sink.state).epochs == 3


def test_the_guard_stops_on_kl_and_names_the_last_good_epoch(tmp_path: Path) -> None:
    spec = make_spec(guard={"max_kl_nats": 1e-2}, eval={"every": 1, "n": 4})
    outcome = run(spec, tmp_path, sink=Sink())
    assert outcome.epochs == 1
    assert outcome.last_good_epoch == 0
    assert "KL" in str(outcome.stopped_by)


def test_the_guard_stops_when_diversity_is_lost(tmp_path: Path) -> None:
    values = iter([10.0, 9.0, 4.0])
    spec = make_spec(guard={"min_diversity_ratio": 0.5}, eval={"every": 1, "n": 4})
    outcome = run(spec, tmp_path, sink=Sink(), diversity=lambda images: next(values))
    assert (outcome.epochs, outcome.last_good_epoch) == (2, 1)
    assert "0.40 of the base's" in str(outcome.stopped_by)


def test_the_guard_stops_when_a_held_out_reward_falls(tmp_path: Path) -> None:
    calls = 0

    def falls_in_the_end(images: Images) -> np.ndarray:
        nonlocal calls
        calls += 1
        return np.arange(len(images)) - (2.0 if calls == 3 else 0.0)  # standard deviation 1.118 over four samples

    spec = make_spec(
        guard={"max_holdout_drop": 1.5, "holdout_rewards": [{"name": "sharpness"}]}, eval={"every": 1, "n": 4}
    )
    sink = Sink()
    outcome = run(spec, tmp_path, sink=sink, holdout={"sharpness": falls_in_the_end})
    assert (outcome.epochs, outcome.last_good_epoch) == (2, 1)
    assert "'sharpness' fell by 1.79 of the base's standard deviations" in str(outcome.stopped_by)
    assert sink.weights.keys() == {0, 1, 2}


def test_the_guards_measure_survives_a_resume(tmp_path: Path) -> None:
    spec = make_spec(
        guard={"max_holdout_drop": 0.5, "holdout_rewards": [{"name": "sharpness"}]}, eval={"every": 1, "n": 4}
    )
    sink = Sink()
    steady = np.arange(4.0)
    with pytest.raises(JobCancelledError):
        run(spec, tmp_path, sink=sink, monitor=Recorder(stop_at=8), holdout={"sharpness": lambda images: steady})
    outcome = run(spec, tmp_path, sink=sink, state=sink.state, holdout={"sharpness": lambda images: steady - 1})
    assert "'sharpness' fell by 0.89" in str(outcome.stopped_by)


def test_kl_is_told_apart_over_the_trained_steps_and_over_the_whole_chain(tmp_path: Path) -> None:
    monitor = Recorder()
    spec = make_spec(sde_window={"start": 0, "length": 2}, eval={"every": 1, "n": 4})
    run(spec, tmp_path, sink=Sink(), monitor=monitor)
    for row in monitor.rows[1:]:
        assert row["kl_nats"] == row["kl_trained_nats"] > 0
        assert row["eval_kl_nats"] > 2 * row["eval_kl_trained_nats"] > 0


def test_adapters_are_merged_into_what_is_stored_and_leave_the_base_alone(tmp_path: Path) -> None:
    sink = Sink()
    run(make_spec(lora={"rank": 2}, epochs=2), tmp_path, sink=sink)
    assert sink.weights[2].keys() == tiny_policy().unet.state_dict().keys()
    changed = {name for name, weights in sink.weights[2].items() if not torch.equal(weights, sink.weights[0][name])}
    assert changed
    assert all("conv" in name or ".to_" in name for name in changed)


def test_gradient_checkpointing_changes_nothing_but_memory(tmp_path: Path) -> None:
    plain, checkpointed = Sink(), Sink()
    run(make_spec(epochs=1), tmp_path, sink=plain)
    run(make_spec(epochs=1, gradient_checkpointing=True), tmp_path, sink=checkpointed)
    for name, weights in plain.weights[1].items():
        torch.testing.assert_close(weights, checkpointed.weights[1][name], rtol=1e-5, atol=1e-6)


def test_more_steps_than_the_model_has_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    policy = tiny_policy()
    policy.scheduler_config["num_train_timesteps"] = 50
    monitor = Recorder()
    with pytest.raises(JobError, match="50 timesteps"):
        run(make_spec(steps=60), tmp_path, sink=Sink(), monitor=monitor, policy=policy)
    assert monitor.questions == 0
