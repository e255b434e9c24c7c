"""A checkpoint folder is checked before it is stored, and what is unpacked is what was stored."""

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from app.adapters.blobs import BlobStore
from app.adapters.checkpoint_store import manifest_files, materialise, store_folder, validate_folder
from app.domain.errors import CorruptDataError, NotFoundError

BUNDLED = Path(__file__).parents[2] / "worker" / "ml" / "pretrained" / "critters-64"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small, valid checkpoint folder: the bundled one with a single tensor for weights."""
    folder = tmp_path / "model"
    shutil.copytree(BUNDLED, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.png"))
    (folder / WEIGHTS).write_bytes(safetensors({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)))
    return folder


@pytest.fixture
def blobs(either_blobs: BlobStore) -> BlobStore:
    return either_blobs


def safetensors(header: object, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_the_bundled_checkpoint_is_valid() -> None:
    checked = validate_folder(BUNDLED)
    assert checked.image_size == 64
    assert WEIGHTS in checked.files


def test_what_is_unpacked_is_what_was_stored(blobs: BlobStore, folder: Path, tmp_path: Path) -> None:
    manifest = store_folder(blobs, folder)
    unpacked = materialise(blobs, manifest, tmp_path / "cache")
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {name: (unpacked / name).read_bytes() for name in manifest_files(blobs, manifest)} == files
    assert store_folder(blobs, unpacked) == manifest


def test_the_flat_layout_of_old_repositories_is_stored_as_the_current_one(blobs: BlobStore, folder: Path) -> None:
    nested = store_folder(blobs, folder)
    for old, new in (("config.json", "unet/config.json"), ("scheduler_config.json", "scheduler/scheduler_config.json")):
        (folder / new).rename(folder / old)
    (folder / WEIGHTS).rename(folder / Path(WEIGHTS).name)
    assert store_folder(blobs, folder) == nested


def _pickle_beside_the_weights(folder: Path) -> None:
    (folder / "unet" / "weights.bin").write_bytes(pickle.dumps({}))


def _pickle_named_safetensors(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(pickle.dumps({"w": list(range(100))}))


def _torn_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1])


def _overlapping_tensors(folder: Path) -> None:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    (folder / WEIGHTS).write_bytes(safetensors({"v": entry, "w": entry}, bytes(8)))


def _lying_shape(folder: Path) -> None:
    entry = {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}
    (folder / WEIGHTS).write_bytes(safetensors({"w": entry}, bytes(8)))


def _missing_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def _foreign_class(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index["unet"] = ["my_package", "RemoteCode"]
    (folder / "model_index.json").write_text(json.dumps(index))


def _broken_json(folder: Path) -> None:
    (folder / "unet" / "config.json").write_text('{"sample_size": ')


def _no_image_size(folder: Path) -> None:
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps(config | {"sample_size": "64"}))


def _foreign_file(folder: Path) -> None:
    (folder / "setup.py").write_text("import os")


def _link_out(folder: Path) -> None:
    (folder / "notes.txt").symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_pickle_beside_the_weights, "unet/weights.bin is a pickle"),
        (_pickle_named_safetensors, "is not a safetensors file"),
        (_torn_weights, "is torn"),
        (_overlapping_tensors, "overlap"),
        (_lying_shape, "header cannot be read"),
        (_missing_weights, "is missing"),
        (_foreign_class, "RemoteCode"),
        (_broken_json, "unet/config.json is not valid JSON"),
        (_no_image_size, "sample_size"),
        (_foreign_file, "setup.py does not belong"),
        (_link_out, "notes.txt is a link"),
    ],
)
def test_a_folder_that_cannot_be_trusted_is_refused_with_the_reason(
    blobs: BlobStore, folder: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    spoil(folder)
    with pytest.raises(CorruptDataError, match=reason):
        store_folder(blobs, folder)


def test_a_corrupt_blob_is_refused_by_its_hash_and_leaves_nothing(
    blobs: BlobStore, folder: Path, tmp_path: Path
) -> None:
    manifest = store_folder(blobs, folder)
    digest = manifest_files(blobs, manifest)[WEIGHTS]
    blobs._fs.pipe_file(blobs._path(digest), blobs.get(digest)[:-1] + b"\x01")
    cache = tmp_path / "cache"
    with pytest.raises(CorruptDataError, match="does not match its hash"):
        materialise(blobs, manifest, cache)
    assert list((cache / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("path", ["../outside.json", "/etc/passwd", "unet\\..\\x.json", "unet/../../x.json"])
def test_a_manifest_cannot_write_outside_its_folder(blobs: BlobStore, tmp_path: Path, path: str) -> None:
    manifest = blobs.put_json({"files": {path: blobs.put(b"{}")}})
    with pytest.raises(CorruptDataError, match="leaves its folder"):
        materialise(blobs, manifest, tmp_path / "cache")


def test_a_manifest_whose_blob_is_gone_says_so(blobs: BlobStore, tmp_path: Path) -> None:
    manifest = blobs.put_json({"files": {"model_index.json": "0" * 64}})
    with pytest.raises(NotFoundError, match="no blob"):
        materialise(blobs, manifest, tmp_path / "cache")
