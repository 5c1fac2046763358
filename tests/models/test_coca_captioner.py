import pytest
import torch
from coca_oracle import END, PAD, START, random_captioner

from pseudo_ris.checkpoints.weights import save_weights
from pseudo_ris.config import CocaConfig
from pseudo_ris.errors import UserError
from pseudo_ris.models.coca.captioner import CocaCaptioner, CocaImages, build_coca, build_tokenizer


def test_text_leaves_special_tokens_out():
    assert random_captioner(1).decode_text([START, 5, 7, END, PAD, PAD]) == "w5 w7"


def test_latents_are_open_clips_and_normalised():
    captioner = random_captioner(2)
    crops = torch.randn(3, 3, 16, 16)
    images = captioner.encode(crops)
    torch.testing.assert_close(images.latents, captioner.model.encode_image(crops))
    torch.testing.assert_close(images.latents.norm(dim=1), torch.ones(3))
    assert captioner.image_size == 16


@pytest.mark.parametrize("asked", [[[0, 1, 2, 3]], [[0, 2], [2, 3]], [[1, 3], [0, 1, 2, 3], [0]], [[1], [2]]])
def test_image_keys_are_the_same_whatever_was_asked_for_before(asked):
    captioner = random_captioner(2)
    images = captioner.encode(torch.randn(4, 3, 16, 16))
    for crops in asked:
        keys = captioner.image_keys(images, torch.tensor(crops))
        alone = captioner.image_keys(CocaImages(images.latents[crops], images.embeddings[crops]), torch.arange(len(crops)))
        assert [pair.shape for pair in keys] == [(2, len(crops), 2, 5, 16)] * 3
        torch.testing.assert_close(keys, alone)


@pytest.mark.parametrize("name", ["no_such_model", "ViT-B-32", "coca_roberta-ViT-B-32", "coca_base"])
def test_other_architectures_are_refused(name):
    with pytest.raises(UserError, match=rf"coca.architecture: {name}"):
        build_coca(name)


def test_demo_round_trip(tmp_path):
    model = build_coca("demo")
    assert all(torch.isfinite(value).all() for value in model.parameters())
    path = tmp_path / "coca.safetensors"
    save_weights(model, path, {})
    captioner = CocaCaptioner.from_config(CocaConfig("demo", str(path)), "cpu")
    tokenizer = build_tokenizer("demo")
    assert captioner.vocabulary == tokenizer.vocab_size
    ids = [captioner.start, *tokenizer.encode("a small red car"), captioner.end]
    assert captioner.decode_text(ids) == "a small red car"
    assert torch.isfinite(captioner.encode(torch.randn(1, 3, captioner.image_size, captioner.image_size)).latents).all()


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(UserError, match=r"coca.weights: .*none\.pt"):
        CocaCaptioner.from_config(CocaConfig("demo", str(tmp_path / "none.pt")), "cpu")


@pytest.mark.slow
def test_full_size_model_builds_without_download():
    captioner = CocaCaptioner(build_coca("coca_ViT-B-32"), build_tokenizer("coca_ViT-B-32"))
    assert (captioner.image_size, captioner.vocabulary, captioner.context) == (224, 49408, 76)
    assert (captioner.start, captioner.end, captioner.pad) == (49406, 49407, 0)
