"""The CLIP-based RIS model: its towers are CLIP's, what it adds is CRIS's and ETRIS's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from pseudo_ris.captions.crops import CLIP_MEAN, CLIP_STD
from pseudo_ris.errors import UserError
from pseudo_ris.models.clip.scorer import build_clip
from pseudo_ris.ris.config import MaskingConfig, ModelConfig
from pseudo_ris.ris.models.build import build_model
from pseudo_ris.ris.models.cris.bridges import Bridge
from pseudo_ris.ris.models.cris.decoder import Projector
from pseudo_ris.ris.models.cris.encoders import ClipTowers, spread
from pseudo_ris.ris.models.cris.neck import coordinates
from pseudo_ris.ris.models.letterbox import Letterbox
from pseudo_ris.ris.training.losses import training_loss
from pseudo_ris.world.grammar import full_caption
from pseudo_ris.world.scenes import draw_scene

SMALL = ModelConfig(input_size=96)
ETRIS = replace(SMALL, adapters=True)


@pytest.fixture(scope="module")
def clip():
    from pseudo_ris.checkpoints.weights import ready_model
    from pseudo_ris.config import ClipConfig

    return ready_model(build_clip, ClipConfig(), "clip")


def inputs(model, sentences=("a red ball", "the large boat on the left"), side=96):
    tokens, attention = model.tokenizer(list(sentences))
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(sentences), 3, side, side, generator=generator), tokens, attention


@pytest.mark.parametrize("config", [SMALL, ETRIS], ids=["cris", "etris"])
def test_logits_have_the_images_size_and_no_background(config):
    model = build_model(config, 0)
    logits = model(*inputs(model, side=128))
    assert logits.shape == (2, 2, 128, 128)
    assert logits.dtype == torch.float32
    assert (logits[:, 0] == 0).all()
    assert logits[:, 1].std() > 0


def test_sentences_are_what_clip_makes_of_them(clip):
    tokens, attention = (build_model(SMALL, 0).tokenizer)(["a red ball", "the large boat with dots on the ground", ""])
    with torch.inference_mode():
        features = ClipTowers(clip).read((), tokens, attention)
        torch.testing.assert_close(features.sentence, clip.encode_text(tokens, normalize=True), atol=1e-5, rtol=1e-4)


def test_the_spread_pool_says_what_each_place_alone_would_give(clip):
    pool, features = clip.visual.attnpool, torch.randn(2, 640, 3, 3)
    with torch.inference_mode():
        everywhere = spread(pool, features)
        for row, column in ((0, 0), (2, 1)):
            place = features[:, :, row, column]
            torch.testing.assert_close(everywhere[:, :, row, column], pool.c_proj(pool.v_proj(place)), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_place_fits_best_the_sentence_of_the_object_it_shows(clip):
    """On drawn scenes, of sentences about two objects that differ in category."""
    towers, tokenizer = ClipTowers(clip).eval(), build_model(SMALL, 0).tokenizer
    right = []
    for index in range(30):
        scene = draw_scene("validation", 0, index)
        objects = {obj.category: number for number, obj in enumerate(scene.objects)}
        if len(objects) < 2:
            continue
        numbers = list(objects.values())[:2]
        pixels = Letterbox.of(256, 256, 384).image(scene.image, np.array(CLIP_MEAN), np.array(CLIP_STD))
        tokens, attention = tokenizer([full_caption(scene.objects[number]) for number in numbers])
        with torch.inference_mode():
            seen = towers.see(torch.from_numpy(pixels).float().expand(2, -1, -1, -1))
            features = towers.read(seen, tokens, attention)
        fit = functional.cosine_similarity(features.maps[2], features.sentence[:, :, None, None], dim=1)
        fit = functional.interpolate(fit[:, None], (256, 256), mode="bilinear")[:, 0].numpy()
        means = [[fit[sentence][scene.label_map == number + 1].mean() for number in numbers] for sentence in range(2)]
        right += [means[0][0] > means[0][1], means[1][1] > means[1][0]]
    assert len(right) >= 40
    assert sum(right) / len(right) > 0.65


def test_maps_have_strides_8_16_and_32(clip):
    towers = ClipTowers(clip)
    maps = towers.see(torch.randn(1, 3, 128, 160))
    assert [tuple(each.shape[1:]) for each in maps] == [(160, 16, 20), (320, 8, 10), (256, 4, 5)]
    assert towers.map_channels == (160, 320, 256)


@pytest.mark.parametrize("config", [SMALL, ETRIS], ids=["cris", "etris"])
def test_a_sample_does_not_depend_on_its_batch_nor_on_padding(config):
    model = build_model(config, 0).double()
    images, tokens, attention = inputs(model)
    images = images.double()
    together = model(images, tokens, attention)
    for row in range(2):
        alone = model(images[row : row + 1], tokens[row : row + 1], attention[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], atol=1e-6, rtol=1e-6)
    other = tokens.masked_fill(~attention, 7)
    torch.testing.assert_close(model(images, other, attention), together, atol=1e-6, rtol=1e-6)


def test_sentence_and_picture_both_matter():
    model = build_model(SMALL, 0)
    images, tokens, attention = inputs(model)
    logits = model(images, tokens, attention)
    assert not torch.allclose(model(images, tokens.flip(0), attention.flip(0)), logits, atol=1e-3)
    assert not torch.allclose(model(images.flip(0), tokens, attention), logits, atol=1e-3)


def test_a_hidden_word_has_an_embedding_of_its_own_that_starts_at_the_mean():
    model = build_model(SMALL, 0)
    embedding = model.towers.token_embedding.weight
    torch.testing.assert_close(model.towers.mask_embedding, embedding.mean(0))
    images, tokens, attention = inputs(model)
    hidden = tokens.clone()
    hidden[:, 2] = model.tokenizer.mask_id
    assert not torch.allclose(model(images, hidden, attention), model(images, tokens, attention), atol=1e-3)
    model(images, hidden, attention).sum().backward()
    assert model.towers.mask_embedding.grad.abs().sum() > 0


def test_every_parameter_learns_from_a_masked_step():
    model = build_model(SMALL, 0)
    images, tokens, attention = inputs(model)
    batch = {"image": images, "tokens": tokens, "attention": attention, "mask": (torch.rand(2, 96, 96) < 0.5).float()}
    training_loss(model, batch, MaskingConfig(image=True, text=True, text_share=1.0), [0, 1]).backward()
    idle = [name for name, each in model.named_parameters() if each.requires_grad and each.grad is None]
    assert idle == []


def test_with_adapters_the_towers_stay_frozen():
    model = build_model(ETRIS, 0)
    before = {name: each.clone() for name, each in model.named_parameters()}
    optimizer = torch.optim.SGD([each for group in model.parameter_groups() for each in group["params"]], lr=0.01)
    for _ in range(2):  # the last layers of the bridges start at zero: what is before them moves from the second step on
        optimizer.zero_grad()
        logits = model(*inputs(model))
        functional.binary_cross_entropy_with_logits(logits[:, 1], torch.ones_like(logits[:, 1])).backward()
        optimizer.step()
    moved = {name for name, each in model.named_parameters() if not torch.equal(each, before[name])}
    assert not any(name.startswith("towers.") and "bridges" not in name for name in moved)
    assert any("bridges.0.pixels_in" in name for name in moved)
    assert not any(group["tower"] for group in model.parameter_groups())


def test_a_new_bridge_changes_nothing():
    features, words = torch.randn(2, 24, 8, 8), torch.randn(2, 5, 16)
    attention = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    same_features, same_words = Bridge(24, 16, 8, 2)(features, words, attention)
    assert torch.equal(same_features, features)
    assert torch.equal(same_words, words)


def test_parameter_groups_hold_every_trainable_parameter_once():
    for config in (SMALL, ETRIS):
        model = build_model(config, 0)
        held = [id(each) for group in model.parameter_groups() for each in group["params"]]
        assert sorted(held) == sorted(id(each) for each in model.parameters() if each.requires_grad)
    names = {id(each): name for name, each in model.named_parameters()}
    kept = [names[id(each)] for group in model.parameter_groups() if not group["decay"] for each in group["params"]]
    assert all("norm" in name or "bias" in name or "embedding" in name or model.get_parameter(name).ndim < 2 for name in kept)


def test_clips_statistics_stay_in_training():
    model = build_model(SMALL, 0).train()
    before = {name: each.clone() for name, each in model.named_buffers()}
    model(*inputs(model))
    assert model.training
    for name, each in model.named_buffers():
        torch.testing.assert_close(each, before[name], rtol=0, atol=0)


def test_the_projectors_kernel_is_each_samples_own():
    projector = Projector(16, 8, 4)
    features, sentence = torch.randn(3, 16, 5, 6), torch.randn(3, 8)
    together = projector(features, sentence)
    assert together.shape == (3, 1, 20, 24)
    for row in range(3):
        pixels, parameters = projector.pixels(features[row : row + 1]), projector.kernel(sentence[row])
        alone = functional.conv2d(pixels, parameters[:-1].view(1, 4, 3, 3), parameters[-1:], padding=1)
        torch.testing.assert_close(together[row : row + 1], alone)


def test_coordinates_run_from_edge_to_edge():
    grid = coordinates(torch.zeros(2, 7, 3, 5))
    assert grid.shape == (2, 2, 3, 5)
    assert grid[1, 0, 2].tolist() == [-1, -0.5, 0, 0.5, 1]
    assert grid[1, 1, :, 4].tolist() == [-1, 0, 1]


def test_the_seed_decides_what_is_drawn_and_nothing_else_changes():
    state = torch.random.get_rng_state()
    first, again, other = (build_model(SMALL, seed).neck.sentence[0].weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_sentence_without_its_end_is_refused():
    with pytest.raises(UserError, match=r"model\.keep_end: .* maskris"):
        build_model(replace(SMALL, keep_end=False), 0)


def test_without_weights_the_towers_are_drawn():
    drawn = build_model(replace(SMALL, image_weights="none"), 0)
    shipped = build_model(SMALL, 0)
    assert not torch.equal(drawn.towers.token_embedding.weight, shipped.towers.token_embedding.weight)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "word"), [("ViT-B-16", "ResNet"), ("RN5", "did you mean")])
def test_other_clips_are_refused(size, word):
    with pytest.raises(UserError, match=word):
        build_model(replace(SMALL, size=size, image_weights="none"), 0)


@pytest.mark.slow
@pytest.mark.parametrize("adapters", [False, True])
def test_rn50_at_full_size_takes_a_step(adapters):
    config = ModelConfig(size="RN50", image_weights="random", input_size=224, words=17, adapters=adapters)
    model = build_model(config, 0)
    assert isinstance(model.neck.coarse[1], nn.GroupNorm)
    images, tokens, attention = inputs(model, ("a dog",), 224)
    batch = {"image": images, "tokens": tokens, "attention": attention, "mask": torch.zeros(1, 224, 224)}
    optimizer = torch.optim.AdamW([{"params": group["params"]} for group in model.parameter_groups()], lr=1e-4)
    losses = []
    for _ in range(2):
        loss = training_loss(model, batch, MaskingConfig(), [0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
