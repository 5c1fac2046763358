"""Weights of the towers by their published names: everything arrives, or one line says what does not fit."""

from __future__ import annotations

import copy
import dataclasses
import re

import pytest
import torch
from maskris_micro import MICRO
from safetensors.torch import save_file
from timm import create_model
from timm.models.swin_transformer import SwinTransformer
from transformers import BertConfig, BertForPreTraining

from pseudo_ris.errors import UserError
from pseudo_ris.ris.config import ModelConfig
from pseudo_ris.ris.models.build import build_model
from pseudo_ris.ris.models.maskris.sizes import SIZES
from pseudo_ris.ris.models.maskris.swin import Swin

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(30))]
NOT_LOADED = ("head.", "norm.", "cls.", "bert.pooler.")


@pytest.fixture(autouse=True)
def micro(monkeypatch):
    """Makes the micro model a size that settings can name."""
    monkeypatch.setitem(SIZES, "micro", MICRO)


@pytest.fixture
def vocabulary(tmp_path):
    return write_vocabulary(tmp_path, PIECES)


def write_vocabulary(folder, pieces) -> str:
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return str(folder / "vocab.txt")


def random_state(module, seed=0) -> dict[str, torch.Tensor]:
    """Random tensors by the names of a published model, which may be on the meta device."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(each.shape, generator=generator) for name, each in module.state_dict().items()}


def swin_state(window=4, width=8) -> dict[str, torch.Tensor]:
    trunk = SwinTransformer(
        embed_dim=width, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), window_size=window, num_classes=5, always_partition=True
    )
    return random_state(trunk)


def bert_state(words=35, width=16) -> dict[str, torch.Tensor]:
    config = BertConfig(
        vocab_size=words,
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=4 * width,
        max_position_embeddings=16,
    )
    return random_state(BertForPreTraining(config))


def build(**settings):
    return build_model(ModelConfig(**{"name": "maskris", "size": "micro", "image_weights": "none", "words": 8, **settings}), 0)


def assert_arrived(tower, state):
    """Every tensor of the tower is the file's, and nothing of the file is left over but what a tower has no use for."""
    expected = {name.removeprefix("bert."): each for name, each in state.items() if not name.startswith(NOT_LOADED)}
    own = tower.state_dict()
    assert own.keys() == expected.keys()
    assert [name for name in own if not torch.equal(own[name], expected[name])] == []


@pytest.mark.parametrize("window", [4, 5])
def test_swin_s_tensors_arrive_and_their_tables_decide_the_window(tmp_path, window):
    state, path = swin_state(window), tmp_path / "swin.safetensors"
    save_file(state, path)
    model = build(image_weights=str(path))
    assert_arrived(model.image.trunk, state)
    assert {block.window_size for stage in model.image.trunk.layers for block in stage.blocks} == {(window, window)}
    assert model.image(torch.randn(1, 3, 64, 64))[0].isfinite().all()


def test_microsoft_s_names_are_understood(tmp_path):
    state = swin_state()
    renamed = {
        re.sub(r"^layers\.(\d)\.downsample", lambda match: f"layers.{int(match[1]) - 1}.downsample", name): each
        for name, each in state.items()
    }
    constants = {
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(16, 16, dtype=torch.int64),
        "layers.2.blocks.1.attn_mask": torch.zeros(4, 16, 16),
    }
    torch.save({"model": {**renamed, **constants}}, tmp_path / "swin.pth")
    assert_arrived(build(image_weights=str(tmp_path / "swin.pth")).image.trunk, state)


def test_swin_s_features_are_timm_s(tmp_path):
    """Where no window has to be padded, the four maps are the normalised ones of timm's own model."""
    torch.manual_seed(0)
    published = SwinTransformer(128, embed_dim=8, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), window_size=4).eval()
    torch.save(published.state_dict(), tmp_path / "swin.pth")
    tower = build(image_weights=str(tmp_path / "swin.pth")).image.eval()
    images = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        for own, theirs in zip(tower(images), published.forward_intermediates(images, intermediates_only=True), strict=True):
            normed = torch.nn.functional.layer_norm(theirs.permute(0, 2, 3, 1), theirs.shape[1:2]).permute(0, 3, 1, 2)
            torch.testing.assert_close(own, normed, atol=1e-5, rtol=1e-4)


def test_a_trained_state_brings_its_windows():
    tower, trained = copy.deepcopy(Swin(MICRO, window=4)), Swin(MICRO, window=6)
    tower.load_state_dict(trained.state_dict())
    images = torch.randn(1, 3, 96, 96)
    for own, theirs in zip(tower.eval()(images), trained.eval()(images), strict=True):
        assert torch.equal(own, theirs)


def old_names(state):
    """As in the first BERT checkpoints."""
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): each
        for name, each in state.items()
    }
    return {**renamed, "bert.embeddings.position_ids": torch.arange(16)[None]}


def without_heads(state):
    return {name.removeprefix("bert."): each for name, each in state.items() if not name.startswith("cls.")}


@pytest.mark.parametrize("form", [dict, old_names, without_heads])
def test_bert_s_tensors_arrive(tmp_path, vocabulary, form):
    state = bert_state()
    torch.save(form(state), tmp_path / "bert.bin")
    model = build(text_weights=str(tmp_path / "bert.bin"), vocabulary=vocabulary)
    assert_arrived(model.language.bert, state)


def without(state, *names):
    return {name: each for name, each in state.items() if name not in names}


@pytest.mark.parametrize(
    ("setting", "make", "parts"),
    [
        (
            "image_weights",
            lambda: swin_state(width=16),
            ["of another shape", "layers.0.blocks.0.attn.proj.bias is (16,), not (8,)", "set model.size"],
        ),
        (
            "image_weights",
            lambda: without(swin_state(), "layers.1.downsample.norm.bias"),
            ["1 missing (layers.1.downsample.norm.bias)"],
        ),
        ("image_weights", lambda: {**swin_state(), "extra.weight": torch.ones(1)}, ["1 surplus (extra.weight)"]),
        ("image_weights", bert_state, ["no Swin", "set model.image_weights"]),
        ("text_weights", lambda: bert_state(width=32), ["of another shape", "(32,), not (16,)", "set model.text_weights"]),
        (
            "text_weights",
            lambda: bert_state(words=40),
            ["1 of another shape (embeddings.word_embeddings.weight is (40, 16), not (35, 16))"],
        ),
        (
            "text_weights",
            lambda: without(bert_state(), "bert.embeddings.LayerNorm.bias"),
            ["1 missing (embeddings.LayerNorm.bias)"],
        ),
        ("text_weights", swin_state, ["missing", "surplus", "..."]),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(tmp_path, vocabulary, setting, make, parts):
    path = tmp_path / "weights.safetensors"
    save_file(make(), path)
    with pytest.raises(UserError) as caught:
        build(**{setting: str(path), "vocabulary": vocabulary})
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert all(part in message for part in parts), message


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "swin.safetensors"
    save_file(swin_state(), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="not a readable checkpoint"):
        build(image_weights=str(path))


def test_names_of_the_manifest_are_the_downloaded_files(tmp_path, monkeypatch):
    monkeypatch.setenv("PSEUDO_RIS_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match=r"model\.image_weights: swin_s_window7: .*download_weights\.sh swin_s_window7"):
        build(image_weights="swin_s_window7")
    state = swin_state()
    torch.save({"model": state}, tmp_path / "swin_small_patch4_window7_224.pth")
    assert_arrived(build(image_weights="swin_s_window7").image.trunk, state)
    write_vocabulary(tmp_path, PIECES)
    (tmp_path / "vocab.txt").rename(tmp_path / "bert_base_uncased_vocab.txt")
    with pytest.raises(UserError, match=r"model\.vocabulary: bert_base_uncased_vocab: .* is not the file that was published"):
        build(vocabulary="bert_base_uncased_vocab")


def test_bert_s_weights_need_their_own_words(tmp_path):
    save_file(without_heads(bert_state()), tmp_path / "bert.safetensors")
    with pytest.raises(UserError, match=r"model\.vocabulary: demo has other words"):
        build(text_weights=str(tmp_path / "bert.safetensors"))


def test_a_vocabulary_larger_than_the_word_table_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(SIZES, "micro", dataclasses.replace(MICRO, bert_words=20))
    with pytest.raises(UserError, match=r"has 35 pieces, micro takes 20"):
        build(vocabulary=write_vocabulary(tmp_path, PIECES))


@pytest.mark.slow
def test_swin_b_and_bert_base_arrive_whole(tmp_path):
    """The published Swin-B first, then that with windows of 12, without BERT."""
    with torch.device("meta"):
        swins = [create_model(f"swin_base_patch4_{name}") for name in ("window7_224", "window12_384")]
        bert = BertForPreTraining(BertConfig())
    bert_tensors = random_state(bert, 2)
    save_file(bert_tensors, tmp_path / "bert.safetensors")
    pieces = [*PIECES, *(f"piece{number}" for number in range(30_522 - len(PIECES)))]
    vocabulary = write_vocabulary(tmp_path, pieces)
    text = {"text_weights": str(tmp_path / "bert.safetensors"), "vocabulary": vocabulary, "words": 20}
    for swin, others in zip(swins, (text, {}), strict=True):
        swin_tensors = random_state(swin, 1)
        torch.save(swin_tensors, tmp_path / "swin.pth")
        model = build(size="base", image_weights=str(tmp_path / "swin.pth"), **others)
        assert_arrived(model.image.trunk, swin_tensors)
        if others:
            assert_arrived(model.language.bert, bert_tensors)
            assert model.tokenizer.vocabulary == 30_522
