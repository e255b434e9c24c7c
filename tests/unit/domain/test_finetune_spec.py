"""The finetune spec refuses what cannot be trained, naming the field; presets are the thesis's runs with its values."""

from typing import Any
from uuid import UUID

import pytest

from app.domain.enums import JobKind
from app.domain.errors import InvalidSpecError
from app.domain.presets import FINETUNE_PRESETS
from app.domain.specs import FinetuneSpec, parse_spec

RUN = {"checkpoint_id": str(UUID(int=0)), "reward": {"name": "brightness"}}

EVALUATION = {"checkpoint_ids": [str(UUID(int=0))], "rewards": [{"name": "brightness"}]}

TABLE_A2: dict[str, dict[str, Any]] = {
    "compressibility": {"epochs": 72, "initial": 9e-8, "peak": 9e-8, "cosine": False, "warmup": 0.0, "clip": 4.5},
    "incompressibility": {"epochs": 72, "initial": 9e-8, "peak": 9e-8, "cosine": False, "warmup": 0.0, "clip": 4.5},
    "aesthetic": {"epochs": 35, "initial": 9e-8, "peak": 3.75e-6, "cosine": True, "warmup": 0.25, "clip": 10.0},
}
REWARD = {"compressibility": "jpeg_compressibility", "incompressibility": "jpeg_incompressibility"}


@pytest.mark.parametrize(
    ("fields", "field", "because"),
    [
        ({"eta": 0}, "spec.eta", "greater than 0"),
        ({"eta": 1.1}, "spec.eta", "less than or equal to 1"),
        ({"steps": 1001}, "spec.steps", "less than or equal to 1000"),
        ({"steps": 1}, "spec.steps", "greater than or equal to 2"),  # the only step would be the deterministic one
        ({"timestep_fraction": 0}, "spec.timestep_fraction", "greater than 0"),
        ({"sde_window": {"start": 0, "length": 0}}, "spec.sde_window.length", "greater than or equal to 1"),
        ({"steps": 10, "sde_window": {"start": 5, "length": 5}}, "spec", "must end before the last step"),
        ({"objective": "sf", "inner_epochs": 2}, "spec", "inner_epochs must be 1"),
        ({"lr": {"peak": float("nan")}}, "spec.lr.peak", "finite number"),
        ({"guard": {"max_holdout_drop": 1}}, "spec", "guard.holdout_rewards"),
        ({"preset": "celebahq-beauty"}, "spec", "unknown preset"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_field(fields: dict[str, Any], field: str, because: str) -> None:
    with pytest.raises(InvalidSpecError) as refused:
        parse_spec(JobKind.FINETUNE, {**RUN, **fields})
    assert [error["field"] for error in refused.value.errors] == [field]
    assert because in refused.value.errors[0]["message"]


@pytest.mark.parametrize("model", ["celebahq", "church"])
@pytest.mark.parametrize("task", TABLE_A2)
def test_the_presets_of_the_thesis_are_its_table_a2(model: str, task: str) -> None:
    spec = FinetuneSpec.model_validate({"checkpoint_id": UUID(int=0), "preset": f"{model}-{task}"})
    expected = TABLE_A2[task]
    assert [term.name for term in spec.reward] == [REWARD.get(task, task)]
    assert (spec.steps, spec.samples_per_epoch, spec.batch_size, spec.updates_per_epoch) == (40, 100, 10, 10)
    assert (spec.inner_epochs, spec.weight_decay, spec.adam_eps, spec.max_grad_norm) == (1, 1e-4, 1e-8, 1.0)
    assert spec.clip_nats == pytest.approx(1e-4 * 3 * 256 * 256, rel=1e-3)
    assert (spec.epochs, spec.advantage.clip, spec.lr.peak, spec.lr.warmup) == tuple(
        expected[name] for name in ("epochs", "clip", "peak", "warmup")
    )
    assert (spec.lr.floor is not None) is expected["cosine"]
    first_rate = spec.lr.initial if spec.lr.warmup else spec.lr.peak
    assert first_rate == expected["initial"]


def test_there_is_a_preset_for_every_run_of_the_thesis_and_each_is_a_valid_spec() -> None:
    runs = {f"{model}-{task}" for model in ("celebahq", "church") for task in TABLE_A2} | {
        "celebahq-over50"
    }  # Table A.1
    assert runs <= FINETUNE_PRESETS.keys()
    for name, values in FINETUNE_PRESETS.items():
        reward = {} if "reward" in values else {"reward": {"name": "brightness"}}
        assert FinetuneSpec.model_validate({"checkpoint_id": UUID(int=0), "preset": name, **reward}).preset == name


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        (
            JobKind.EVALUATE,
            {"checkpoint_ids": [str(UUID(int=0))], "rewards": [{"name": "brightness"}], "seed": 2**31 - 9},
        ),
        (JobKind.FINETUNE, RUN | {"eval": {"seed": 2**31 - 9, "n": 16}}),
    ],
)
def test_seeds_that_no_row_can_hold_are_refused_before_anything_is_drawn(kind: JobKind, spec: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpecError) as refused:
        parse_spec(kind, spec)
    assert "stay below" in refused.value.errors[0]["message"]


def test_an_evaluation_names_each_checkpoint_once() -> None:
    with pytest.raises(InvalidSpecError) as refused:
        parse_spec(JobKind.EVALUATE, EVALUATION | {"checkpoint_ids": [str(UUID(int=0))] * 2})
    assert "twice" in refused.value.errors[0]["message"]
