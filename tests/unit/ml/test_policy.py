"""Model folders come from outside: what is not exactly right is refused by name and reason."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline
from safetensors.torch import load_file, save_file
from tiny import tiny_policy

from app.domain.errors import CorruptDataError
from worker.ml.policy import Policy, load_policy, save_policy
from worker.ml.pretrained import BUNDLED

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(policy: Policy, tmp_path: Path) -> Path:
    save_policy(policy, tmp_path / "model")
    return tmp_path / "model"


def test_a_saved_policy_opens_again_with_the_same_weights_here_and_in_diffusers(folder: Path) -> None:
    saved = tiny_policy().unet.state_dict()
    for unet in (load_policy(folder).unet, DDPMPipeline.from_pretrained(folder).unet):
        assert all(torch.equal(weights, saved[name]) for name, weights in unet.state_dict().items())


def test_a_flat_folder_opens_too(folder: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in (*folder.glob("unet/*"), *folder.glob("scheduler/*")):
        path.rename(flat / path.name)
    assert load_policy(flat).image_size == 8


def test_the_bundled_model_opens() -> None:
    policy = load_policy(BUNDLED["critters-64"])
    assert (policy.image_size, policy.num_train_timesteps) == (64, 1000)
    assert not policy.unet.training


def refused(folder: Path, *, because: str) -> None:
    with pytest.raises(CorruptDataError, match=because):
        load_policy(folder)


def test_a_pickle_is_refused_unopened(folder: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, ("raise SystemExit('ran')",)

    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    refused(folder, because=r"unet/diffusion_pytorch_model\.bin is a pickle")


def test_a_pickle_in_safetensors_clothing_is_refused(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(pickle.dumps({"weights": 1}))
    refused(folder, because="not a whole safetensors file")


def test_a_torn_file_is_refused(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    refused(folder, because="not a whole safetensors file")


@pytest.mark.parametrize("name", [WEIGHTS, "unet/config.json", "scheduler/scheduler_config.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    refused(folder, because=f"{name} is missing")


@pytest.mark.parametrize(
    ("changes", "because"),
    [
        ({"_class_name": "UNet3DModel"}, "UNet3DModel"),
        ({"in_channels": 4}, "RGB to RGB"),
        ({"norm_num_groups": 7}, "does not describe a UNet2DModel"),
        ({"block_out_channels": [8, 24]}, "does not fit config.json"),
        ({"block_out_channels": [80_000, 160_000]}, "more than 4,000,000,000 parameters"),
        ({"sample_size": None}, "sample_size"),
    ],
)
def test_a_config_that_is_not_this_models_is_refused(folder: Path, changes: dict[str, object], because: str) -> None:
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    refused(folder, because=because)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_config_is_refused(folder: Path, text: str) -> None:
    (folder / "scheduler" / "scheduler_config.json").write_text(text)
    refused(folder, because=r"scheduler_config\.json")


def test_nan_weights_are_refused(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["conv_out.bias"][0] = torch.nan
    save_file(tensors, folder / WEIGHTS)
    refused(folder, because=r"conv_out\.bias")


def test_a_missing_and_a_surplus_tensor_are_refused(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    bias = tensors.pop("conv_out.bias")
    save_file(tensors, folder / WEIGHTS)
    refused(folder, because="does not fit config.json")
    save_file(tensors | {"conv_out.bias": bias, "extra": bias.clone()}, folder / WEIGHTS)
    refused(folder, because="does not fit config.json")
