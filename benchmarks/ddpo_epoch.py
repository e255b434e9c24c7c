"""One DDPO epoch: the engine against a plain reference written the way most implementations do it.

Same model, steps and samples, in one run, each in a process of its own: seconds, network evaluations a second, share of
the measured matmul peak of a core, peak memory; and how the engine's cost grows with samples, steps and image size.
`python -m benchmarks.ddpo_epoch [--samples 20] [--steps 20] [--repeats 3] [--growth] [--json]`.
"""

import argparse
import copy
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch.utils.flop_counter import FlopCounterMode

from app.domain.specs import FinetuneSpec
from worker.ml import ddim
from worker.ml.advantages import standardise
from worker.ml.learner import Learner
from worker.ml.noise import training_seeds
from worker.ml.policy import Policy, load_policy
from worker.ml.pretrained import BUNDLED
from worker.ml.ranks import AccelerateRanks, Alone, Ranks
from worker.ml.rewards.jpeg import JpegSize
from worker.ml.rollout import KL_SAMPLES, collect, decode

REFERENCE_BATCH = 10
ENGINE_BATCH = 32


@dataclass(frozen=True)
class Setup:
    """One way to run one epoch."""

    name: str
    precision: str = "fp32"
    kl: bool = False
    """Also measure the KL of 8 trajectories to the base, as every finetune does and the reference does not."""
    ranks: int = 1
    """Processes, which share the threads."""
    samples: int = 20
    steps: int = 20
    image_size: int = 64

    @property
    def spec(self) -> FinetuneSpec:
        return FinetuneSpec(
            checkpoint_id=UUID(int=0),
            reward=({"name": "jpeg_compressibility"},),
            epochs=1,
            samples_per_epoch=self.samples,
            steps=self.steps,
            batch_size=ENGINE_BATCH,
            precision=self.precision,
            updates_per_epoch=max(1, self.samples // REFERENCE_BATCH),
            lr={"peak": 1e-7},
        )

    def policy(self) -> Policy:
        """The bundled network; it is convolutional, so any image size runs through it."""
        policy = load_policy(BUNDLED["critters-64"])
        policy.unet.register_to_config(sample_size=self.image_size)
        return policy


def engine(setup: Setup, policy: Policy, ranks: Ranks) -> None:
    """Rollouts in large batches, transitions of all samples and steps flattened and shuffled together."""
    spec, mine = setup.spec, slice(ranks.index, None, ranks.count)
    schedule = ddim.make_schedule(policy.scheduler_config, steps=spec.steps, eta=spec.eta)
    base = Policy(copy.deepcopy(policy.unet), policy.scheduler_config) if setup.kl else None
    learner = Learner(policy, policy, spec, ranks)
    trajectories = collect(
        policy,
        training_seeds(spec.seed, 1, spec.samples_per_epoch)[mine],
        schedule,
        batch_size=ENGINE_BATCH,
        precision=spec.precision,
        reference=base,
        kl_samples=len(range(ranks.index, min(KL_SAMPLES, spec.samples_per_epoch), ranks.count)),
    )
    rewards = ranks.rows(JpegSize(sign=-1)(trajectories.images))
    table = standardise(np.repeat((rewards - rewards.mean())[:, None], spec.steps, axis=1), clip=5.0)
    learner.learn(1, trajectories, torch.from_numpy(table[mine]), schedule, between_batches=lambda evaluations: None)


def reference(setup: Setup, policy: Policy, ranks: Ranks) -> None:
    """Eager, fp32, batches of ten, one timestep at a time, an update after every batch's trajectory."""
    spec = setup.spec
    scheduler = DDIMScheduler.from_config(policy.scheduler_config)
    scheduler.set_timesteps(spec.steps)
    optimizer = torch.optim.AdamW(policy.unet.parameters(), lr=1e-7)
    batches, rewards = [], []
    for start in range(0, spec.samples_per_epoch, REFERENCE_BATCH):
        size = min(REFERENCE_BATCH, spec.samples_per_epoch - start)
        states, log_probs = [torch.randn(size, *policy.image_shape)], []
        with torch.no_grad():
            for t in scheduler.timesteps[:-1]:
                mean, sigma = _mean_and_sigma(scheduler, policy, states[-1], t)
                states.append(mean + sigma * torch.randn_like(mean))
                log_probs.append(torch.distributions.Normal(mean, sigma).log_prob(states[-1]).mean(dim=(1, 2, 3)))
            final, _ = _mean_and_sigma(scheduler, policy, states[-1], scheduler.timesteps[-1])
        batches.append((states, log_probs))
        rewards.append(JpegSize(sign=-1)(decode(final)))
    for (states, old), reward in zip(batches, rewards, strict=True):
        advantage = torch.from_numpy((reward - reward.mean()) / (reward.std() + 1e-8))
        optimizer.zero_grad()
        for step, t in enumerate(scheduler.timesteps[:-1]):
            mean, sigma = _mean_and_sigma(scheduler, policy, states[step], t)
            log_prob = torch.distributions.Normal(mean, sigma).log_prob(states[step + 1]).mean(dim=(1, 2, 3))
            ratio = (log_prob - old[step]).exp()
            loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - 1e-4, 1 + 1e-4)).mean()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.unet.parameters(), 1.0)
        optimizer.step()


def _mean_and_sigma(
    scheduler: DDIMScheduler, policy: Policy, x: torch.Tensor, t: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    zeros = torch.zeros_like(x)
    mean = scheduler.step(policy.unet(x, t).sample, t, x, eta=1.0, variance_noise=zeros).prev_sample
    previous = t - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    return mean, scheduler._get_variance(t, previous) ** 0.5


def matmul_peak(dtype: torch.dtype) -> float:
    """Floating-point operations a core second of one large matrix product, the best of five."""
    n = 1536
    a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
    spent = []
    for _ in range(5):
        started = time.process_time()
        a @ b
        spent.append(time.process_time() - started)
    return 2 * n**3 / min(spent)


def flops_per_evaluation(policy: Policy) -> float:
    """Floating-point operations of one forward pass of one image."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        policy.unet(torch.zeros(1, *policy.image_shape), torch.zeros(1, dtype=torch.long))
    return float(counter.get_total_flops())


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(setup: Setup, threads: int, folder: Path | None, index: int) -> dict[str, float]:
    """One epoch on a fresh copy of the model, after one small one to warm up: [seconds, core seconds, memory]."""
    torch.set_num_threads(max(1, threads // setup.ranks))
    run = reference if setup.name == "reference" else engine
    run(replace(setup, samples=2 * setup.ranks, steps=2, ranks=1), setup.policy(), Alone())
    policy, ranks = setup.policy(), Alone()
    if folder is not None:
        ranks = AccelerateRanks(folder / "rendezvous", index=index, count=setup.ranks, device=torch.device("cpu"))
        ranks.everyone(None)
    core_started = time.process_time()
    seconds = _seconds(lambda: run(setup, policy, ranks))
    found = {
        "seconds": seconds,
        "core_seconds": time.process_time() - core_started,
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    if folder is not None:
        ranks.leave()
    return found


def once(setup: Setup, threads: int) -> dict[str, float]:
    """`measure` in processes of its own, so that peak memory is too; core seconds and memory are sums over them."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["worker.ml.learner", "worker.ml.ranks"])  # importing torch takes seconds
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(max_workers=setup.ranks, mp_context=context) as pool,
    ):
        shared = Path(folder) if setup.ranks > 1 else None
        parts = list(pool.map(partial(measure, setup, threads, shared), range(setup.ranks)))
    found = {name: sum(part[name] for part in parts) for name in parts[0]}
    return found | {"seconds": max(part["seconds"] for part in parts)}


def row(setup: Setup, runs: Sequence[dict[str, float]], peaks: dict[str, float], operations: float) -> dict[str, Any]:
    """What the fastest of a setup's runs comes to, by the clock; core seconds are the least of all runs."""
    best = min(runs, key=lambda run: run["seconds"])
    forward, updated = setup.samples * setup.steps, setup.samples * (setup.steps - 1)
    extra = min(KL_SAMPLES, setup.samples) * (setup.steps - 1) if setup.kl else 0
    total = operations * (forward + extra + 3 * updated)  # a backward pass is two forward ones
    core_seconds = min(run["core_seconds"] for run in runs)
    return {
        "name": setup.name,
        "seconds": round(best["seconds"], 2),
        "core_seconds": round(core_seconds, 2),
        "all_seconds": [round(run["seconds"], 2) for run in runs],
        "evaluations_per_second": round((forward + extra + updated) / best["seconds"], 1),
        "share_of_matmul_peak": round(total / core_seconds / peaks[setup.precision], 3),
        "peak_memory_mb": round(max(run["memory_mb"] for run in runs)),
    }


def growth(threads: int, precision: str) -> list[dict[str, Any]]:
    """Seconds of an epoch as one thing at a time grows; 8 samples of 10 steps at 64 pixels otherwise."""
    small = Setup("growth", precision=precision, samples=8, steps=10)
    rows = []
    for field, values in (("samples", (8, 16, 32)), ("steps", (10, 20, 40)), ("image_size", (32, 64, 128))):
        for value in values:
            setup = replace(small, **{field: value})
            found = once(setup, threads)
            rows.append({"grows": field, "value": value, **{name: round(found[name], 2) for name in found}})
            print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--growth", action="store_true", help="also show how cost grows (alone with --repeats 0)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    threads = torch.get_num_threads()
    size = {"samples": options.samples, "steps": options.steps}
    setups = [
        Setup("reference", **size),
        Setup("engine fp32", **size),
        Setup("engine bf16", precision="bf16", **size),
        Setup("engine bf16 and KL", precision="bf16", kl=True, **size),
        Setup("engine bf16, 2 ranks", precision="bf16", ranks=2, **size),
    ]
    operations = flops_per_evaluation(setups[0].policy())
    peaks = dict.fromkeys(("fp32", "bf16"), 0.0)
    runs: list[list[dict[str, float]]] = [[] for _ in setups]
    load = os.getloadavg()[0]
    for _ in range(options.repeats):  # in turn, so that a busy minute hits all alike
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            peaks[name] = max(peaks[name], matmul_peak(dtype))
        for setup, found in zip(setups, runs, strict=True):
            found.append(once(setup, threads))
    rows = [row(setup, found, peaks, operations) for setup, found in zip(setups, runs, strict=True) if found]
    conditions = {
        "threads": threads, "cores": os.cpu_count(), "load_average_at_start": round(load, 1),
        "torch": torch.__version__,
        "model": "critters-64 (2.69 M parameters)", "gflop_per_evaluation": round(operations / 1e9, 3),
        "matmul_peak_gflops_per_core": {name: round(peak / 1e9, 1) for name, peak in peaks.items()},
        "repeats": options.repeats, "gpu": "not measured: none at hand", **size,
    }  # fmt: skip
    print(json.dumps(conditions))
    for line in rows:
        print("  ".join(f"{key} {value}" for key, value in line.items()))
    speedups = {
        line["name"]: {
            "by_the_clock": round(rows[0]["seconds"] / line["seconds"], 2),
            "in_core_seconds": round(rows[0]["core_seconds"] / line["core_seconds"], 2),
        }
        for line in rows[1:]
    }
    for name, speedup in speedups.items():
        print(
            f"{name}: {speedup['by_the_clock']} x the reference by the clock, {speedup['in_core_seconds']} in core time"
        )
    grown = growth(threads, "bf16") if options.growth else []
    if options.json:
        print(json.dumps({"conditions": conditions, "rows": rows, "speedups": speedups, "growth": grown}))


if __name__ == "__main__":
    main()
