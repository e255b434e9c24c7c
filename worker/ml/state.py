"""The resumable state of a run: tensors and JSON in one safetensors file, written atomically, refused if altered."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from app.domain.errors import CorruptDataError

FORMAT = "tastemaker-finetune-1"


@dataclass(frozen=True)
class RunState:
    """Everything that a finished epoch leaves to the next one.

    There is no RNG state in it: every random draw is a function of (seed, epoch, sample, step).
    """

    tensors: dict[str, Tensor]
    values: dict[str, Any]


def write_state(state: RunState, path: Path) -> None:
    """Write `path` so that a crash leaves either the old file or the whole new one."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    values = json.dumps(state.values, sort_keys=True, allow_nan=False)
    metadata = {"format": FORMAT, "values": values, "sha256": _digest(tensors, values)}
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, metadata=metadata)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def read_state(path: Path) -> RunState:
    """Read a state back.

    Raises:
        CorruptDataError: not such a file, torn, or its content does not have the hash it was written with.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise CorruptDataError(f"The resumable state {path.name} cannot be read: {error}") from error
    if metadata.get("format") != FORMAT:
        raise CorruptDataError(f"{path.name} is not a finetune's resumable state of this version; start the job over.")
    values = metadata.get("values", "")
    if metadata.get("sha256") != _digest(tensors, values):
        raise CorruptDataError(f"The resumable state {path.name} does not match its hash; start the job over.")
    return RunState(tensors, json.loads(values))


def pack_optimizer(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """The optimiser's per-parameter tensors under flat names; hyperparameters come from the spec."""
    state = optimizer.state_dict()["state"]
    return {f"{prefix}.{index}.{name}": value for index, slots in state.items() for name, value in slots.items()}


def unpack_optimizer(optimizer: torch.optim.Optimizer, prefix: str, tensors: Mapping[str, Tensor]) -> None:
    """Restore what `pack_optimizer` gave, in the memory layout of each parameter."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, parameter in enumerate(parameters):
        start = f"{prefix}.{index}."
        slots = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
        for name, value in slots.items():
            like = torch.zeros_like(parameter) if value.shape == parameter.shape else torch.zeros_like(value)
            optimizer.state[parameter][name] = like.copy_(value)


def _digest(tensors: Mapping[str, Tensor], values: str) -> str:
    digest = hashlib.sha256(values.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
