"""DDPO (arXiv:2305.13301): sample, reward, update, evaluate, save; resumable after every epoch, bit for bit on CPU."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from pydantic import ValidationError

from app.domain.enums import Baseline, Credit
from app.domain.errors import CorruptDataError, JobCancelledError, JobError
from app.domain.specs import FinetuneSpec
from worker.ml import advantages, ddim, guard
from worker.ml.advantages import BaselineState
from worker.ml.learner import Learner
from worker.ml.lora import merged, with_adapters
from worker.ml.mirrored import mirrored_evaluations, mirrored_images, mirrored_steps
from worker.ml.noise import training_seeds
from worker.ml.pace import Pace
from worker.ml.policy import Policy, place
from worker.ml.progress import Metric, Monitor, SilentMonitor
from worker.ml.ranks import Alone, Ranks
from worker.ml.rewards import CombinedReward, Images, MappedReward, Reward
from worker.ml.rollout import KL_SAMPLES, Trajectories, collect
from worker.ml.state import RunState, pack_optimizer, read_state, unpack_optimizer, write_state
from worker.ml.value import ValueBaseline

_ROLLOUT_BATCH = 32
_HISTOGRAM_BINS = 24
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


@runtime_checkable
class RunSink(Protocol):
    """Where a run's results go."""

    def save_state(self, epoch: int, path: Path) -> None:
        """`path` is a complete resumable state after `epoch` finished epochs; it is overwritten after the next."""

    def evaluated(
        self, epoch: int, policy: Policy, seeds: Sequence[int], images: Images, rewards: Float[np.ndarray, " n"]
    ) -> None:
        """The fixed evaluation seeds at epoch 0 (the base), every `spec.eval.every` epochs and at the end.

        `policy` holds the weights to store (the EMA's, adapters merged), only until this returns. An epoch that is
        repeated after a crash is reported again, with the same weights and samples.
        """


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `stopped_by` is the guard's sentence, or None; `last_good_epoch` names the result."""

    epochs: int
    stopped_by: str | None
    last_good_epoch: int


def finetune(
    policy: Policy,
    spec: FinetuneSpec,
    reward: Reward,
    *,
    sink: RunSink,
    monitor: Monitor,
    workdir: Path,
    device: str = "cpu",
    resume_from: Path | None = None,
    holdout: Mapping[str, Reward] | None = None,
    diversity: Callable[[Images], float] | None = None,
    ranks: Ranks | None = None,
) -> Outcome:
    """Move `policy` toward `reward` as `spec` says; its weights are changed in place.

    Args:
        workdir: an existing folder for the state file.
        resume_from: a state that `sink.save_state` was given; the run goes on as if it had never stopped.
        holdout: rewards that are measured at every evaluation but not optimised.
        diversity: a number for a set of images (the Vendi score); compared with the base's.
        ranks: the processes that share this run; each calls this with the same arguments but its own device, and only
            rank 0's sink, monitor and workdir are used.

    Raises:
        JobCancelledError: a stop was asked for; the state of the last finished epoch is with the sink.
        JobError: the spec cannot work on this model, or a reward, the ratio or the loss is not sound.
        CorruptDataError: `resume_from` is torn, tampered with, or of another spec or model.
    """
    run = _Run(
        policy, spec, reward, sink, monitor, workdir, torch.device(device), holdout or {}, diversity, ranks or Alone()
    )
    return run.execute(resume_from)


class _Run:
    def __init__(
        self,
        policy: Policy,
        spec: FinetuneSpec,
        reward: Reward,
        sink: RunSink,
        monitor: Monitor,
        workdir: Path,
        device: torch.device,
        holdout: Mapping[str, Reward],
        diversity: Callable[[Images], float] | None,
        ranks: Ranks,
    ) -> None:
        window = (spec.sde_window.start, spec.sde_window.length) if spec.sde_window else None
        config = policy.scheduler_config
        self.schedule = ddim.make_schedule(config, steps=spec.steps, eta=spec.eta, window=window)
        self.eval_schedule = ddim.make_schedule(config, steps=spec.steps, eta=spec.eta)
        if not self.schedule.trainable:
            raise JobError(
                "No transition of this schedule is stochastic, so nothing can be trained; raise steps or eta."
            )
        if spec.samples_per_epoch < ranks.count:
            raise JobError(
                f"samples_per_epoch is {spec.samples_per_epoch}; {ranks.count} ranks need one each at least."
            )
        place(policy.unet, device)
        self.reference = Policy(copy.deepcopy(policy.unet).requires_grad_(False), config)
        trained = policy if spec.lora is None else with_adapters(policy, spec.lora)
        if spec.gradient_checkpointing:
            policy.unet.enable_gradient_checkpointing()
        self.spec, self.reward, self.sink = spec, reward, sink
        self.monitor = monitor if ranks.index == 0 else SilentMonitor()  # rank 0 speaks for all
        self.holdout, self.diversity, self.workdir, self.device = holdout, diversity, workdir, device
        self.ranks, self.mine = ranks, slice(ranks.index, None, ranks.count)
        self.grid = self._grid()
        if spec.advantage.mirror > len(self.schedule.trainable):
            raise JobError(
                f"advantage.mirror is {spec.advantage.mirror}, but this schedule has only "
                f"{len(self.schedule.trainable)} stochastic steps."
            )
        self.learner = Learner(trained, self.reference, spec, ranks)
        self.baseline = BaselineState()
        total = policy.num_train_timesteps
        is_value = spec.advantage.baseline is Baseline.VALUE
        self.value = (
            ValueBaseline(spec.seed, num_train_timesteps=total, device=device, ranks=ranks) if is_value else None
        )
        self.eval_seeds = [spec.eval.seed + i for i in range(spec.eval.n)]
        self.pace = self._plan()
        self.best_reward = -float("inf")
        self.base_diversity: float | None = None
        self.base_holdout: dict[str, tuple[float, float]] = {}
        """(mean, standard deviation) of every held-out reward on the base's fixed seeds."""
        self.last_good_epoch = 0

    def execute(self, resume_from: Path | None) -> Outcome:
        finished = -1 if resume_from is None else self._restore(resume_from)
        if finished < 0:
            base, _ = self._evaluate(0)
            self.monitor.metrics({"epoch": 0, **base})
            self._save(0)
            finished = 0
        for epoch in range(finished + 1, self.spec.epochs + 1):
            reason = self._epoch(epoch)
            self._save(epoch)
            if reason is not None:
                self.monitor.log(f"Stopped after epoch {epoch}: {reason}. Epoch {self.last_good_epoch} is the result.")
                return Outcome(epoch, reason, self.last_good_epoch)
        return Outcome(self.spec.epochs, None, self.last_good_epoch)

    def _epoch(self, epoch: int) -> str | None:
        """One epoch; the guard's sentence when the run must stop."""
        spec, name = self.spec, f"Epoch {epoch} of {self.spec.epochs}"
        started = time.perf_counter()
        self.pace.begin("rollout", f"{name}: sampling")
        trajectories = collect(
            self.learner.policy,
            training_seeds(spec.seed, epoch, spec.samples_per_epoch)[self.mine],
            self.schedule,
            batch_size=_ROLLOUT_BATCH,
            precision=spec.precision,
            reference=self.reference,
            kl_samples=self._kl_samples(spec.samples_per_epoch),
            keep_x_0_images=spec.shaping,
            grid=self.grid,
            between_batches=self._between_batches,
        )
        rewards = self.reward(trajectories.images)
        returns = self._returns(trajectories, rewards)
        rewards, returns = self.ranks.rows(rewards), self.ranks.rows(returns)
        weights = self._advantages(trajectories, returns)
        rolled_out = time.perf_counter()
        self.pace.begin("update", f"{name}: learning")
        report = self.learner.learn(epoch, trajectories, weights, self.schedule, between_batches=self._between_batches)
        if self.value is not None:
            self.value.fit(epoch, trajectories, self.schedule, returns)
        updated = time.perf_counter()
        kl_nats = self._mean_kl(trajectories, self.schedule.trainable)
        row: dict[str, Metric] = {
            "epoch": epoch,
            "reward_mean": float(rewards.mean()),
            "reward_std": float(rewards.std()),
            "reward_min": float(rewards.min()),
            "reward_max": float(rewards.max()),
            "reward_quantiles": [float(q) for q in np.quantile(rewards, _QUANTILES)],
            "reward_histogram": _histogram(rewards),
            "kl_nats": kl_nats,  # what "kl_trained_nats" says, under its older name
            "kl_trained_nats": kl_nats,
            **asdict(report),
            "timesteps": [int(self.schedule.timesteps[step]) for step in self.schedule.trainable],
            "seconds_rollout": rolled_out - started,
            "seconds_update": updated - rolled_out,
            "network_evaluations": self._evaluations("rollout") + self._evaluations("update"),
        }
        reason = guard.breach(spec.guard, kl_nats=kl_nats)
        if epoch % spec.eval.every == 0 or epoch == spec.epochs or reason is not None:
            evaluation, found = self._evaluate(epoch)
            row |= evaluation
            reason = reason or found
            if reason is None:
                self.last_good_epoch = epoch
        self.monitor.metrics(row)
        return reason

    def _returns(self, trajectories: Trajectories, rewards: Float[np.ndarray, " n"]) -> advantages.Table:
        """What followed every step: rewards on the way, mirrored noise and tiles as the spec says."""
        spec = self.spec
        earned = rewards if self.grid is None else self._credit(trajectories.images)
        returns = advantages.rewards_to_go(earned, self._potential(trajectories), steps=spec.steps)
        steps = mirrored_steps(self.schedule, spec.advantage.mirror)
        ends = mirrored_images(
            self.learner.policy,
            trajectories,
            self.schedule,
            steps,
            batch_size=_ROLLOUT_BATCH,
            precision=spec.precision,
            between_batches=self._between_batches,
        )
        mirrored = {step: self._credit(images) for step, images in zip(steps, ends, strict=True)}
        return advantages.mirror_steps(returns, earned, mirrored)

    def _credit(self, images: Images) -> Float[np.ndarray, "n ..."]:
        """The reward, by tile where the spec says so."""
        if self.grid is None:
            return self.reward(images)
        assert isinstance(self.reward, MappedReward)
        return self.reward.reward_map(images)

    def _grid(self) -> tuple[int, int] | None:
        """(rows, columns) of the tiles that the reward is credited to; None for whole images.

        Raises:
            JobError: the reward cannot say where it was earned, or its tiles do not divide this model's images.
        """
        if self.spec.credit is Credit.IMAGE:
            return None
        if not isinstance(self.reward, MappedReward):
            raise JobError("This reward cannot say where in the image it was earned; use credit 'image'.")
        edge = self.reference.image_size
        _, rows, columns = self.reward.reward_map(np.zeros((1, edge, edge, 3), dtype=np.uint8)).shape
        if edge % rows or edge % columns:
            raise JobError(f"The reward's {rows} x {columns} tiles do not divide images of {edge} pixels.")
        return rows, columns

    def _advantages(self, trajectories: Trajectories, returns: advantages.Table) -> Float[torch.Tensor, "n s ..."]:
        """Advantages of this rank's transitions, from the returns of all ranks' samples; computed over the trainable
        steps alone, 0 elsewhere."""
        columns = self.schedule.trainable
        dimensions = trajectories.x[0, 0].numel()
        scores = ddim.squared_score(self.schedule, trajectories.log_prob, dimensions=dimensions).cpu().numpy()
        scores = self.ranks.rows(scores)
        value = None
        if self.value is not None:
            value = self.ranks.rows(self.value.predict(trajectories, self.schedule))[:, columns]
        trained, choice = returns[:, columns], self.spec.advantage
        flat = trained.reshape(len(trained), -1)
        relative = advantages.subtract_baseline(
            flat,
            choice.baseline,
            state=self.baseline,
            weights=np.repeat(scores[:, columns], flat.shape[1] // len(columns), axis=1),
            value=value,
        ).reshape(trained.shape)
        table = np.zeros_like(returns)
        table[:, columns] = advantages.standardise(relative, clip=choice.clip, per_step=choice.per_step)
        return torch.from_numpy(table[self.mine]).to(self.device)

    def _potential(self, trajectories: Trajectories) -> advantages.Table | None:
        """The reward of x_0_pred at every step, where the spec asks for rewards on the way."""
        images = trajectories.x_0_images
        if images is None:
            return None
        return np.stack([self._credit(images[:, step]) for step in range(images.shape[1])], axis=1)

    def _evaluate(self, epoch: int) -> tuple[dict[str, Metric], str | None]:
        """Draw the fixed seeds with the weights to store, hand both to the sink; metrics, and the guard's sentence."""
        self.pace.begin("evaluation", "Evaluating the base" if epoch == 0 else f"Evaluating epoch {epoch}")
        with self.learner.averaged() as averaged:
            trajectories = collect(
                averaged,
                self.eval_seeds[self.mine],
                self.eval_schedule,
                batch_size=_ROLLOUT_BATCH,
                precision=self.spec.precision,
                reference=self.reference,
                kl_samples=self._kl_samples(self.spec.eval.n),
                keep_x_0_images=self.spec.eval.trajectory > 0,
                between_batches=self._between_batches,
            )
            images = self.ranks.rows(trajectories.images)
            rewards = self.reward(images)  # on every rank: a sum of rewards takes its units from the first images
            on_the_way = self._on_the_way(trajectories)
            if self.ranks.index == 0:
                stored = averaged if self.spec.lora is None else merged(averaged)
                self.sink.evaluated(epoch, stored, self.eval_seeds, images, rewards)
        self.best_reward = max(self.best_reward, float(rewards.mean()))
        kl_nats = self._mean_kl(trajectories, self.schedule.trainable)
        row: dict[str, Metric] = {
            "eval_reward_mean": float(rewards.mean()),
            "eval_reward_sem": float(rewards.std(ddof=1) / np.sqrt(len(rewards))) if len(rewards) > 1 else None,
            "eval_reward_best": self.best_reward,
            # over the whole chain, the stiff last transition included, and over the transitions that are trained
            "eval_kl_nats": self._mean_kl(trajectories, self.eval_schedule.trainable),
            "eval_kl_trained_nats": kl_nats,
        }
        if on_the_way is not None:
            row["eval_trajectories"] = on_the_way.ravel().tolist()
        return self.ranks.from_main((row, None) if self.ranks.index else self._judged(images, row, kl_nats))

    def _on_the_way(self, trajectories: Trajectories) -> Float[np.ndarray, "n k"] | None:
        """The reward of x_0_pred of the fixed seeds at `spec.eval.trajectory` steps, from the noisiest to the last."""
        if trajectories.x_0_images is None:
            return None
        steps = np.linspace(0, self.spec.steps - 1, self.spec.eval.trajectory).round().astype(int)
        images = [self.ranks.rows(trajectories.x_0_images[:, step]) for step in steps]
        return np.stack([self.reward(each) for each in images], axis=1)

    def _judged(self, images: Images, row: dict[str, Metric], kl_nats: float) -> tuple[dict[str, Metric], str | None]:
        """The row with held-out rewards and diversity, and the guard's sentence."""
        ratio, drops = None, {}
        for name, held_out in self.holdout.items():
            values = held_out(images)
            mean, std = self.base_holdout.setdefault(name, (float(values.mean()), float(values.std())))
            row[f"holdout_{name}"] = float(values.mean())
            drops[name] = (mean - float(values.mean())) / max(std, 1e-8)
        if self.diversity is not None:
            row["diversity"] = score = float(self.diversity(images))
            self.base_diversity = score if self.base_diversity is None else self.base_diversity
            ratio = score / self.base_diversity
        return row, guard.breach(self.spec.guard, kl_nats=kl_nats, diversity_ratio=ratio, holdout_drops=drops)

    def _kl_samples(self, n: int) -> int:
        """How many of the first `KL_SAMPLES` of n samples are this rank's."""
        return len(range(self.ranks.index, min(KL_SAMPLES, n), self.ranks.count))

    def _mean_kl(self, trajectories: Trajectories, steps: list[int]) -> float:
        """KL to the reference in nats, summed over `steps` of a trajectory; the mean of those it is known of."""
        return float(self.ranks.rows(trajectories.kl[:, steps].sum(1).numpy()).mean())

    def _between_batches(self, evaluations: int) -> None:
        self.pace.add(evaluations * self.ranks.count)
        if self.monitor.should_stop():
            raise JobCancelledError("Cancelled; the state after the last finished epoch is kept, so it can be resumed.")

    def _evaluations(self, kind: str) -> int:
        """Network evaluations of one epoch's phase, or of one evaluation."""
        spec, trainable = self.spec, len(self.schedule.trainable)
        if kind == "rollout":
            a_sample = spec.steps + mirrored_evaluations(self.schedule, spec.advantage.mirror)
            return spec.samples_per_epoch * a_sample + min(KL_SAMPLES, spec.samples_per_epoch) * trainable
        if kind == "update":
            return self.learner.transitions_per_epoch(trainable)
        return spec.eval.n * spec.steps + min(KL_SAMPLES, spec.eval.n) * len(self.eval_schedule.trainable)

    def _plan(self, finished: int | None = None) -> Pace:
        """What the whole run will take in network evaluations, with `finished` epochs behind it."""
        spec = self.spec

        def work(epochs: int) -> dict[str, int]:
            evaluations = 1 + epochs // spec.eval.every + (epochs == spec.epochs and epochs % spec.eval.every > 0)
            return {
                "rollout": epochs * self._evaluations("rollout"),
                "update": epochs * self._evaluations("update"),
                "evaluation": evaluations * self._evaluations("evaluation"),
            }

        pace = Pace(self.monitor, work(spec.epochs))
        if finished is not None:
            pace.skip(work(finished))
        return pace

    def _save(self, epoch: int) -> None:
        if self.ranks.index > 0:
            return
        learner = self.learner
        tensors = {f"weights.{name}": parameter for name, parameter in learner.parameters.items()}
        tensors |= {f"ema.{name}": average for name, average in learner.ema.items()}
        tensors |= pack_optimizer(learner.optimizer, "optimizer")
        if self.value is not None:
            tensors |= self.value.pack()
        values = {
            "epoch": epoch,
            "spec": self.spec.model_dump(mode="json"),
            "baseline": self.baseline.to_json(),
            "value_scale": None if self.value is None else self.value.scale,
            "reward_statistics": self.reward.statistics if isinstance(self.reward, CombinedReward) else None,
            "best_reward": self.best_reward,
            "base_diversity": self.base_diversity,
            "base_holdout": self.base_holdout,
            "last_good_epoch": self.last_good_epoch,
        }
        path = self.workdir / "state.safetensors"
        write_state(RunState(tensors, values), path)
        self.sink.save_state(epoch, path)

    def _restore(self, path: Path) -> int:
        """Load a state; the number of finished epochs."""
        state = read_state(path)
        values, learner = state.values, self.learner
        if not _same_spec(values["spec"], self.spec):
            raise CorruptDataError("The resumable state belongs to a run with another spec; start this job over.")
        with torch.no_grad():
            for kind, tensors in (("weights", learner.parameters), ("ema", learner.ema)):
                for name, tensor in tensors.items():
                    saved = state.tensors.get(f"{kind}.{name}")
                    if saved is None or saved.shape != tensor.shape:
                        raise CorruptDataError(f"The resumable state does not fit this model at {name}.")
                    tensor.copy_(saved)
        unpack_optimizer(learner.optimizer, "optimizer", state.tensors)
        self.baseline = BaselineState(**values["baseline"])
        if self.value is not None:
            scale = values["value_scale"]
            self.value.unpack(state.tensors, None if scale is None else (scale[0], scale[1]))
        if isinstance(self.reward, CombinedReward):
            self.reward.statistics = [(mean, std) for mean, std in values["reward_statistics"]]
        self.best_reward = values["best_reward"]
        self.base_diversity = values["base_diversity"]
        self.base_holdout = {name: (mean, std) for name, (mean, std) in values.get("base_holdout", {}).items()}
        self.last_good_epoch = values["last_good_epoch"]
        finished = int(values["epoch"])
        self.pace = self._plan(finished)
        return finished


def _histogram(rewards: Float[np.ndarray, " n"]) -> list[int]:
    """How many rewards fall into each of equal bins from the lowest to the highest."""
    counts, _ = np.histogram(rewards, bins=_HISTOGRAM_BINS)
    return [int(count) for count in counts]


def _same_spec(stored: dict[str, Any], spec: FinetuneSpec) -> bool:
    """Whether a stored spec means the same run; fields that are younger than it count as left at their defaults. A run
    may go on with a larger budget of epochs and with other guards."""
    free = {"epochs", "guard"}
    try:
        return FinetuneSpec.model_validate(stored).model_dump(exclude=free) == spec.model_dump(exclude=free)
    except ValidationError:
        return False
