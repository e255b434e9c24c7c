"""Job forms made from the specs themselves: the model that validates a run is the one that draws its form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from app.domain.enums import JobKind
from app.domain.presets import FINETUNE_PRESETS
from app.domain.specs import SPEC_OF_KIND, RewardTerm

Schema = Mapping[str, Any]

_ESSENTIAL: dict[JobKind, frozenset[str]] = {
    JobKind.SAMPLE: frozenset({"checkpoint_id", "n", "seed", "steps", "eta"}),
    JobKind.REWARD_MODEL: frozenset({"campaign_id", "encoder", "ensemble", "seed"}),
    JobKind.FINETUNE: frozenset({"checkpoint_id", "reward", "epochs", "samples_per_epoch", "steps", "seed"}),
    JobKind.EVALUATE: frozenset({"checkpoint_ids", "rewards", "n", "seed"}),
    JobKind.ANALYZE: frozenset({"checkpoint_ids", "kind", "rewards", "n", "seed"}),
    JobKind.PRETRAIN: frozenset({"name", "data", "image_size", "steps", "batch_size", "seed"}),
    JobKind.PUSH: frozenset({"checkpoint_id", "repo_id", "private", "message"}),
}
_LABELS = {
    "checkpoint_id": "Checkpoint", "checkpoint_ids": "Checkpoints", "campaign_id": "Campaign",
    "init_checkpoint_id": "Start from", "n": "Number of samples", "eta": "Noise (eta)", "lr": "Learning rate",
    "kl_coef": "KL weight", "ema": "EMA decay", "sde_window": "SDE window", "lora": "LoRA adapters",
    "clip_nats": "Clip", "eval": "Evaluation", "guard": "Guards", "reward": "Reward to optimise",
    "guidance": "CLIP guidance", "max_kl_nats": "Largest KL", "type": "Source", "kind": "Analysis",
    "repo_id": "Repository",
}  # fmt: skip
_UNITS = {"clip_nats": "nats", "max_kl_nats": "nats"}
_RENDERED_APART = frozenset({"preset"})


class FormData(Protocol):
    """A submitted form: a field may come several times."""

    def get(self, key: str) -> Any: ...
    def getlist(self, key: Any) -> list[Any]: ...


@dataclass(frozen=True)
class Option:
    """One entry of a select or a list of boxes; `why_not` disables it and says why."""

    value: str
    label: str
    why_not: str | None = None


@dataclass(frozen=True)
class FormField:
    """One control (`kind` number, text, checkbox, select, checkboxes, rewards) or, with `fields`, a group of them."""

    path: str
    label: str
    help: str
    kind: str
    value: Any = None
    required: bool = False
    minimum: float | None = None
    maximum: float | None = None
    whole: bool = False
    unit: str = ""
    options: Sequence[Option] = ()
    weights: Mapping[str, str] = field(default_factory=dict)
    weighted: bool = False
    optional: bool = False
    fields: Sequence["FormField"] = ()
    errors: Sequence[str] = ()

    @property
    def has_errors(self) -> bool:
        return bool(self.errors) or any(part.has_errors for part in self.fields)


@dataclass(frozen=True)
class JobForm:
    kind: JobKind
    essential: Sequence[FormField]
    advanced: Sequence[FormField]
    preset: str | None
    presets: Sequence[str]
    errors: Sequence[str]
    """Errors that belong to no single field."""


def spec_fields(kind: JobKind) -> Schema:
    return SPEC_OF_KIND[kind].model_json_schema()


def build_form(
    kind: JobKind,
    *,
    options: Mapping[str, Sequence[Option]],
    values: Mapping[str, Any],
    preset: str | None = None,
    errors: Sequence[Mapping[str, str]] = (),
) -> JobForm:
    """The form of a kind's spec.

    Args:
        options: what ids can be chosen, by field name; `rewards` holds what can be optimised or measured.
        values: what the fields show, by dotted path; what is missing shows the preset's value or the default.
        errors: `InvalidSpecError.errors`; each is put beside its field.
    """
    root = spec_fields(kind)
    shown = {**_flatten(FINETUNE_PRESETS.get(preset or "", {})), **values}
    by_path: dict[str, list[str]] = {}
    for error in errors:
        by_path.setdefault(error["field"].removeprefix("spec").lstrip("."), []).append(_plain(error["message"]))
    builder = _Builder(root, options, shown, by_path)
    fields = builder.fields_of(root, "")
    essential = _ESSENTIAL[kind]
    return JobForm(
        kind=kind,
        essential=[part for part in fields if part.path in essential],
        advanced=[part for part in fields if part.path not in essential],
        preset=preset,
        presets=sorted(FINETUNE_PRESETS) if kind is JobKind.FINETUNE else [],
        errors=[message for messages in by_path.values() for message in messages],  # those that no field has taken
    )


def read_form(kind: JobKind, form: FormData) -> tuple[dict[str, Any], dict[str, Any]]:
    """The spec's payload, and the values to show again if it is refused.

    Empty fields are left out, so that the preset or the default fills them.
    """
    root = spec_fields(kind)
    values: dict[str, Any] = {}
    payload = _read(root, root, "", form, values)
    if preset := form.get("preset"):
        payload["preset"] = str(preset)
    return payload, values


def values_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a form shows for a whole stored spec: every field, whether it is the default or not."""
    values: dict[str, Any] = {}
    for name, value in spec.items():
        _spread(values, name, value)
    return values


def _spread(values: dict[str, Any], path: str, value: Any) -> None:
    if isinstance(value, Mapping):
        values[f"{path}.on"] = True
        for name, part in value.items():
            # a variant's fields lie under its tag (`data.dicebear.style`)
            tag = value.get("type")
            _spread(values, f"{path}.{tag}.{name}" if tag and name != "type" else f"{path}.{name}", part)
    elif isinstance(value, list) and value and isinstance(value[0], Mapping) and "weight" in value[0]:
        values[path] = _reward_keys([{**term, "params": {}} for term in value])
        keyed = zip(values[path], value, strict=True)
        values[f"{path}.weights"] = {key: str(term["weight"]) for key, term in keyed}
    else:
        values[path] = value


class _Builder:
    def __init__(
        self,
        root: Schema,
        options: Mapping[str, Sequence[Option]],
        values: Mapping[str, Any],
        errors: dict[str, list[str]],
    ) -> None:
        self._root, self._options, self._values, self._errors = root, options, values, errors

    def fields_of(self, schema: Schema, prefix: str) -> list[FormField]:
        required = schema.get("required", ())
        return [
            self._field(f"{prefix}{name}", name, part, required=name in required)
            for name, part in schema["properties"].items()
            if name not in _RENDERED_APART
        ]

    def _field(self, path: str, name: str, part: Schema, *, required: bool) -> FormField:
        inner, optional = _resolve(self._root, part)
        base: dict[str, Any] = {
            "path": path,
            "label": _LABELS.get(name, name.removesuffix("_id").replace("_", " ").capitalize()),
            "help": part.get("description") or inner.get("description", "") if "properties" not in inner else "",
            "unit": _UNITS.get(name, ""),
        }
        if "oneOf" in inner:
            return FormField(**base, kind="variants", fields=self._variants(path, inner), errors=self._take(path))
        if "properties" in inner:
            help = part.get("description", "")
            return FormField(
                **(base | {"help": help}), kind="group", optional=optional,
                value=self._values.get(f"{path}.on") if optional else None,
                fields=self.fields_of(inner, f"{path}."), errors=self._take(path),
            )  # fmt: skip
        value = self._values.get(path, part.get("default"))
        if _is_rewards(self._root, inner):
            return FormField(
                **base, kind="rewards", value=_reward_keys(value), required=required, options=self._options["rewards"],
                weights=self._values.get(f"{path}.weights", {}), weighted=name == "reward",
                errors=self._take(path, deep=True),
            )  # fmt: skip
        if name in self._options:
            many = inner.get("type") == "array"
            return FormField(
                **base, kind="checkboxes" if many else "select", value=[str(v) for v in value or ()] if many else value,
                required=required, options=self._options[name], optional=not required,
                errors=self._take(path, deep=many),
            )  # fmt: skip
        if "enum" in inner:
            options = [Option(str(item), str(item).replace("_", " ")) for item in inner["enum"]]
            return FormField(
                **base, kind="select", value=value, options=options, required=True, errors=self._take(path)
            )
        if inner.get("type") == "boolean":
            return FormField(**base, kind="checkbox", value=value, errors=self._take(path))
        if inner.get("type") in ("integer", "number"):
            return FormField(
                **base, kind="number", value=value, required=required, whole=inner["type"] == "integer",
                minimum=inner.get("minimum", inner.get("exclusiveMinimum")),
                maximum=inner.get("maximum", inner.get("exclusiveMaximum")), errors=self._take(path),
            )  # fmt: skip
        if isinstance(value, list | tuple):
            value = ", ".join(str(item) for item in value)
        return FormField(**base, kind="text", value=value, required=required, errors=self._take(path, deep=True))

    def _variants(self, path: str, union: Schema) -> list[FormField]:
        """A select of the variant, then one group a variant; only the chosen one's fields are read."""
        tag = union["discriminator"]["propertyName"]
        refs: Mapping[str, str] = union["discriminator"]["mapping"]
        help = _follow(self._root, next(iter(refs.values())))["properties"][tag].get("description", "")
        chosen = self._values.get(f"{path}.{tag}", next(iter(refs)))
        choice = FormField(
            path=f"{path}.{tag}", label=_LABELS[tag], help=help, kind="select", required=True, value=chosen,
            options=[Option(key, key) for key in refs],
        )  # fmt: skip
        groups = []
        for key, ref in refs.items():
            schema = _follow(self._root, ref)
            properties = {name: part for name, part in schema["properties"].items() if name != tag}
            parts = self.fields_of({"properties": properties}, f"{path}.{key}.")
            about = schema.get("description", "")
            groups.append(
                FormField(path=f"{path}.{key}", label=key.capitalize(), help=about, kind="group", fields=parts)
            )
        return [choice, *groups]

    def _take(self, path: str, *, deep: bool = False) -> list[str]:
        found = self._errors.pop(path, [])
        if deep:
            for key in [key for key in self._errors if key.startswith(f"{path}.")]:
                found += self._errors.pop(key)
        return found


def _read(root: Schema, schema: Schema, prefix: str, form: FormData, values: dict[str, Any]) -> dict[str, Any]:
    payload: dict[str, Any] = {}
    for name, part in schema["properties"].items():
        if name in _RENDERED_APART:
            continue
        path = f"{prefix}{name}"
        inner, optional = _resolve(root, part)
        if "oneOf" in inner:
            tag = inner["discriminator"]["propertyName"]
            chosen = str(form.get(f"{path}.{tag}") or "")
            values[f"{path}.{tag}"] = chosen
            ref = inner["discriminator"]["mapping"].get(chosen)
            variant = _follow(root, ref) if ref else {"properties": {}}
            properties = {key: value for key, value in variant["properties"].items() if key != tag}
            payload[name] = {tag: chosen} | _read(root, {"properties": properties}, f"{path}.{chosen}.", form, values)
        elif "properties" in inner:
            group = _read(root, inner, f"{path}.", form, values)
            wanted = not optional or form.get(f"{path}.on") is not None
            if optional:
                values[f"{path}.on"] = wanted
            if wanted:
                payload[name] = group
        elif _is_rewards(root, inner):
            keys = [str(key) for key in form.getlist(path)]
            weights = {key: str(form.get(f"{path}.weight.{key}") or "") for key in keys}
            values[path], values[f"{path}.weights"] = keys, weights
            if keys:
                payload[name] = [_term(key, weights[key]) for key in keys]
        elif inner.get("type") == "array":
            given = [str(item) for item in form.getlist(path) if str(item).strip()]
            values[path] = ", ".join(given)
            if inner.get("items", {}).get("type") == "integer":
                given = [item.strip() for text in given for item in text.split(",") if item.strip()]
            else:
                values[path] = given
            if given:
                payload[name] = given
        elif inner.get("type") == "boolean":
            payload[name] = values[path] = form.get(path) is not None
        else:
            text = str(form.get(path) or "").strip()
            values[path] = text
            if text:
                payload[name] = text
    return payload


def _term(key: str, weight: str) -> dict[str, Any]:
    name, _, model = key.partition(":")
    term: dict[str, Any] = {"name": name}
    if model:
        term["reward_model_id"] = model
    if weight:
        term["weight"] = weight
    return term


def _reward_keys(value: Any) -> list[str]:
    """Terms as the form names them: `jpeg_compressibility`, `preference:<reward model id>`."""
    return [RewardTerm.model_validate(item).key if isinstance(item, Mapping) else str(item) for item in value or ()]


def _resolve(root: Schema, part: Schema) -> tuple[Schema, bool]:
    """The schema behind references and `| None`, and whether None is allowed."""
    optional = False
    if "anyOf" in part:
        branches = [branch for branch in part["anyOf"] if branch.get("type") != "null"]
        optional = len(branches) < len(part["anyOf"])
        part = branches[0]
    return (_follow(root, part["$ref"]) if "$ref" in part else part), optional


def _follow(root: Schema, ref: str) -> Schema:
    found: Schema = root["$defs"][ref.rpartition("/")[2]]
    return found


def _is_rewards(root: Schema, schema: Schema) -> bool:
    return schema.get("type") == "array" and schema.get("items", {}).get("$ref", "").endswith("/RewardTerm")


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _plain(message: str) -> str:
    return message.removeprefix("Value error, ")
