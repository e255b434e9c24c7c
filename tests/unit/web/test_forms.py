"""Forms made from specs: what an untouched form posts is the spec's own default, and errors find their field."""

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import pytest
from starlette.datastructures import FormData

from app.domain.enums import JobKind
from app.domain.errors import InvalidSpecError
from app.domain.jobs import SUPPORTED_JOB_KINDS
from app.domain.specs import parse_spec
from app.web.forms import FormField, JobForm, Option, build_form, read_form, values_of

UNKNOWN = UUID(int=7)  # an id that nothing has

_ID = str(UNKNOWN)
_OPTIONS = {
    name: [Option(_ID, "one")] for name in ("checkpoint_id", "checkpoint_ids", "campaign_id", "init_checkpoint_id")
} | {"rewards": [Option("jpeg_compressibility", "JPEG"), Option(f"preference:{_ID}", "learned")]}
_NEEDED: dict[JobKind, dict[str, Any]] = {
    JobKind.SAMPLE: {"checkpoint_id": _ID},
    JobKind.REWARD_MODEL: {"campaign_id": _ID},
    JobKind.FINETUNE: {"checkpoint_id": _ID, "reward": [f"preference:{_ID}"]},
    JobKind.EVALUATE: {"checkpoint_ids": [_ID], "rewards": ["jpeg_compressibility"]},
    JobKind.ANALYZE: {"checkpoint_ids": [_ID], "kind": "diversity"},
    JobKind.PRETRAIN: {},
    JobKind.PUSH: {"checkpoint_id": _ID, "repo_id": "lab/model"},
}


def leaves(fields: Sequence[FormField]) -> Iterator[FormField]:
    for field in fields:
        yield field
        yield from leaves(field.fields)


def form_of(kind: JobKind, **arguments: Any) -> JobForm:
    return build_form(kind, options=_OPTIONS, **{"values": {}} | arguments)


def posted(form: JobForm) -> list[tuple[str, str]]:
    """What a browser sends of this form when nothing is touched."""
    sent: list[tuple[str, str]] = []
    for field in leaves([*form.essential, *form.advanced]):
        if field.kind in ("number", "text", "select"):
            sent.append((field.path, "" if field.value is None else str(field.value)))
        elif field.kind == "checkbox" and field.value:
            sent.append((field.path, "on"))
        elif field.kind in ("checkboxes", "rewards"):
            sent += [(field.path, value) for value in field.value]
            if field.weighted:
                sent += [(f"{field.path}.weight.{key}", field.weights.get(key, "")) for key in field.value]
        elif field.kind == "group" and field.optional and field.value:
            sent.append((f"{field.path}.on", "on"))
    return sent


@pytest.mark.parametrize("kind", sorted(SUPPORTED_JOB_KINDS))
def test_an_untouched_form_posts_the_defaults(kind: JobKind) -> None:
    needed = _NEEDED[kind]
    payload, _ = read_form(kind, FormData(posted(form_of(kind, values=needed))))
    plain = {**needed}
    for name in ("reward", "rewards"):
        if name in plain:
            plain[name] = [
                {"name": key.partition(":")[0]} | ({"reward_model_id": _ID} if ":" in key else {})
                for key in plain[name]
            ]
    assert parse_spec(kind, payload) == parse_spec(kind, plain)


def test_a_preset_fills_the_form_and_what_is_changed_wins() -> None:
    form = form_of(JobKind.FINETUNE, values=_NEEDED[JobKind.FINETUNE], preset="critters-quick")
    sent = [item for item in posted(form) if item[0] != "epochs"]
    payload, _ = read_form(JobKind.FINETUNE, FormData([*sent, ("preset", "critters-quick"), ("epochs", "99")]))
    spec = parse_spec(JobKind.FINETUNE, payload).model_dump()
    untouched = parse_spec(
        JobKind.FINETUNE,
        {"preset": "critters-quick", "checkpoint_id": _ID, "reward": {"name": "preference", "reward_model_id": _ID}},
    ).model_dump()
    assert spec == untouched | {"epochs": 99}


@pytest.mark.parametrize("kind", sorted(SUPPORTED_JOB_KINDS))
def test_every_error_of_an_empty_form_is_beside_its_field(kind: JobKind) -> None:
    payload, values = read_form(kind, FormData([("data.type", "folder")]))
    try:
        parse_spec(kind, payload)
        errors: list[dict[str, str]] = []
    except InvalidSpecError as refused:
        errors = refused.errors
    assert errors
    form = form_of(kind, values=values, errors=errors)
    beside = [error for field in leaves([*form.essential, *form.advanced]) for error in field.errors]
    assert len(beside) == len(errors)
    assert form.errors == []


def test_an_error_of_the_whole_spec_is_shown_above_the_form() -> None:
    form = form_of(JobKind.FINETUNE, errors=[{"field": "spec", "message": "Value error, parts do not fit together"}])
    assert form.errors == ["parts do not fit together"]


def test_an_optional_group_counts_only_when_it_is_switched_on() -> None:
    fields = [("checkpoint_id", _ID), ("guidance.prompt", "a cat"), ("guidance.scale", "2")]
    without, _ = read_form(JobKind.SAMPLE, FormData(fields))
    assert "guidance" not in without
    payload, _ = read_form(JobKind.SAMPLE, FormData([*fields, ("guidance.on", "on")]))
    assert payload["guidance"] == {"prompt": "a cat", "scale": "2"}


def test_weights_go_with_the_rewards_that_are_ticked() -> None:
    learned = f"preference:{_ID}"
    fields = [("reward", learned), (f"reward.weight.{learned}", "2.5"), ("reward.weight.jpeg_compressibility", "9")]
    payload, values = read_form(JobKind.FINETUNE, FormData(fields))
    assert payload["reward"] == [{"name": "preference", "reward_model_id": _ID, "weight": "2.5"}]
    shown = next(field for field in form_of(JobKind.FINETUNE, values=values).essential if field.kind == "rewards")
    assert shown.value == [learned]
    assert shown.weights[learned] == "2.5"


@pytest.mark.parametrize("kind", sorted(SUPPORTED_JOB_KINDS))
def test_every_field_has_a_sentence_of_help(kind: JobKind) -> None:
    form = form_of(kind)
    silent = [field.path for field in leaves([*form.essential, *form.advanced]) if not field.help.strip()]
    assert silent == []


@pytest.mark.parametrize("kind", sorted(SUPPORTED_JOB_KINDS & _NEEDED.keys()))
def test_a_duplicated_job_posts_the_spec_that_it_was_made_from(kind: JobKind) -> None:
    """Every value differs from its default where the kind has an optional group, a list or a variant."""
    more: dict[str, Any] = {
        JobKind.FINETUNE: {
            "epochs": 7, "lora": {"rank": 4}, "sde_window": {"start": 1, "length": 5},
            "lr": {"peak": 0.003, "floor": 1e-5},
            "guard": {"holdout_rewards": [{"name": "jpeg_compressibility"}], "pause_on_alarm": True},
            "reward": [{"name": "jpeg_compressibility", "weight": -2.0}], "checkpoint_id": _ID,
        },
        JobKind.SAMPLE: {"checkpoint_id": _ID, "guidance": {"prompt": "a cat", "scale": 3.0}},
        JobKind.PRETRAIN: {"channels": [8, 16], "flip": False, "data": {"type": "folder", "path": "mine"}},
        JobKind.EVALUATE: {"checkpoint_ids": [_ID], "rewards": [{"name": "jpeg_compressibility"}], "n": 9},
    }.get(kind, _NEEDED[kind])  # fmt: skip
    spec = parse_spec(kind, more)
    form = form_of(kind, values=values_of(spec.model_dump(mode="json")))
    payload, _ = read_form(kind, FormData(posted(form)))
    assert parse_spec(kind, payload) == spec
