from worker.ml.policy import load_policy
from worker.ml.pretrained import BUNDLED


def test_the_bundled_checkpoint_loads_and_is_what_its_card_says():
    folder = BUNDLED["critters-64"]
    policy = load_policy(folder)
    parameters = sum(parameter.numel() for parameter in policy.unet.parameters())
    card = (folder / "README.md").read_text()
    assert f"{parameters:,}" in card
    assert policy.image_size == 64
    assert "license: cc0-1.0" in card
