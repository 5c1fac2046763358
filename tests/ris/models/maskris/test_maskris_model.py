"""The model as a whole: shapes, what depends on what, gradients, parameter groups."""

from __future__ import annotations

import pytest
import torch
from maskris_micro import MICRO, SENTENCES, micro_batch, micro_model

from pseudo_ris.errors import UserError
from pseudo_ris.ris.config import ModelConfig
from pseudo_ris.ris.models.build import build_model
from pseudo_ris.ris.models.maskris.language import PROMPTS
from pseudo_ris.ris.models.maskris.swin import Swin


@pytest.mark.parametrize("side", [32, 64, 96])
def test_logits_have_stride_4_and_are_upsampled_from_corner_to_corner(side):
    model = micro_model()
    with torch.no_grad():
        logits = model(*micro_batch(model, side))
        assert logits.shape == (2, 2, side // 4, side // 4) and logits.dtype == torch.float32
        full = model.upsampled(logits, side)
    assert full.shape == (2, 2, side, side)
    torch.testing.assert_close(full[:, :, :: side - 1, :: side - 1], logits[:, :, :: side // 4 - 1, :: side // 4 - 1])
    # Pixel 5 of a row lies at 5 * (side / 4 - 1) / (side - 1) of the low resolution's.
    place = 5 * (side // 4 - 1) / (side - 1)
    left, share = int(place), place % 1
    between = (1 - share) * logits[:, :, 0, left] + share * logits[:, :, 0, left + 1]
    torch.testing.assert_close(full[:, :, 0, 5], between)


def test_swin_gives_four_normalised_maps():
    torch.manual_seed(0)
    maps = Swin(MICRO, window=4)(torch.randn(2, 3, 96, 64))
    assert [tuple(each.shape) for each in maps] == [(2, 8, 24, 16), (2, 16, 12, 8), (2, 32, 6, 4), (2, 64, 3, 2)]
    for each in maps:
        torch.testing.assert_close(each.mean(1), torch.zeros_like(each[:, 0]), atol=1e-5, rtol=0)


def test_padding_does_not_matter():
    model = micro_model().eval()
    images, tokens, attention = micro_batch(model)
    other = torch.where(attention, tokens, torch.randint_like(tokens, model.tokenizer.vocabulary))
    assert not torch.equal(tokens, other)
    with torch.no_grad():
        assert torch.equal(model(images, tokens, attention), model(images, other, attention))
        longest = int(attention.sum(1).max())
        shorter = model(images, tokens[:, :longest], attention[:, :longest])
        torch.testing.assert_close(shorter, model(images, tokens, attention), atol=1e-5, rtol=1e-4)


def test_words_and_image_both_matter():
    model = micro_model().eval()
    images, tokens, attention = micro_batch(model)
    with torch.no_grad():
        logits = model(images, tokens, attention)
        assert not torch.allclose(logits, model(images, tokens.flip(0), attention.flip(0)))
        assert not torch.allclose(logits, model(images.flip(0), tokens, attention))


def test_prompts_are_read_after_the_words_and_never_masked():
    model = micro_model().eval()
    _, tokens, attention = micro_batch(model)
    coarsest = torch.randn(2, 64, 2, 2)
    seen = {}
    model.language.bert.encoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(read=args[0], **kwargs), with_kwargs=True
    )
    with torch.no_grad():
        words = model.language(tokens, attention, coarsest)
        length = model.tokenizer.length
        torch.testing.assert_close(seen["read"][:, length:], model.language.prompts(coarsest))
        torch.testing.assert_close(seen["read"][:, :length], model.language.bert.embeddings(tokens))
        assert torch.equal(seen["attention_mask"][:, 0, 0], torch.cat([attention, torch.ones(2, PROMPTS) > 0], dim=1))
        assert words.shape == (2, length, MICRO.bert_width)
        assert not torch.allclose(words, model.language(tokens, attention, coarsest + 1))


def test_each_prompt_sees_its_quarter_of_the_image():
    model = micro_model()
    coarsest = torch.randn(1, 64, 4, 4)
    other = coarsest.clone()
    other[:, :, :2, 2:] += 1
    with torch.no_grad():
        changed = (model.language.prompts(coarsest) != model.language.prompts(other)).any(2)
    assert changed[0].tolist() == [True, False, True, False, False]


def test_gradients_reach_every_parameter():
    model = micro_model()
    model(*micro_batch(model)).log_softmax(1)[:, 1, :20].mean().backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    nothing = {name for name, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 0}
    assert not without
    # Adding the same to all keys changes no attention, so its gradient is nothing but rounding, or 0.
    assert {name for name in nothing if not name.endswith("key.bias")} == set()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision_gives_finite_fp32_logits(dtype):
    model = micro_model()
    with torch.autocast("cpu", dtype):
        logits = model(*micro_batch(model))
    logits.sum().backward()
    assert logits.dtype == torch.float32 and logits.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_training_goes_on_after_an_evaluation():
    model = micro_model()
    batch = micro_batch(model)
    with torch.inference_mode():
        evaluated = model(*batch)
    trained = model(*batch)
    trained.sum().backward()
    assert torch.equal(trained, evaluated)


def test_groups_hold_every_parameter_once():
    model = micro_model()
    groups = model.parameter_groups()
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(held) == len(set(held)) and set(held) == {id(parameter) for parameter in model.parameters()}


def test_groups_tell_towers_and_what_decays():
    model = micro_model()
    group_of = {id(parameter): group for group in model.parameter_groups() for parameter in group["params"]}
    groups = {
        name: (group_of[id(parameter)]["tower"], group_of[id(parameter)]["decay"])
        for name, parameter in model.named_parameters()
    }
    attention = "image.trunk.layers.0.blocks.0.attn"
    layer = "language.bert.encoder.layer.0"
    assert groups[f"{attention}.qkv.weight"] == groups[f"{layer}.output.dense.weight"] == (True, True)
    assert groups[f"{attention}.relative_position_bias_table"] == groups["image.norms.0.weight"] == (True, False)
    assert groups[f"{layer}.output.LayerNorm.weight"] == groups["image.norms.0.bias"] == (True, False)
    assert groups[f"{layer}.output.dense.bias"] == groups[f"{attention}.qkv.bias"] == (True, True)
    assert groups["language.bert.embeddings.word_embeddings.weight"] == (True, False)
    assert groups["language.prompts.readers.0.0.weight"] == groups["decoder.joined.0.weight"] == (False, True)
    assert groups["language.prompts.learned.weight"] == groups["decoder.prompts.weight"] == (False, False)
    assert groups["decoder.layers.0.pixel_norms.0.weight"] == groups["decoder.words.1.bias"] == (False, False)
    assert groups["decoder.layers.0.word_gamma"] == groups["decoder.levels.weight"] == (False, True)
    assert groups["decoder.lateral.1.weight"] == groups["decoder.queries.0.bias"] == (False, True)


@pytest.mark.slow
def test_it_can_learn_to_tell_two_sentences_apart():
    model = micro_model()
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(2)).expand(2, -1, -1, -1)
    tokens, attention = model.tokenizer(SENTENCES)
    masks = torch.zeros(2, 32, 32, dtype=torch.int64)
    masks[0, :, :16], masks[1, :16] = 1, 1
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3, foreach=True)
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(model.upsampled(model(images, tokens, attention), 32), masks)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    right = (model.upsampled(model(images, tokens, attention), 32).argmax(1) == masks).float().mean()
    assert right > 0.9


def test_the_seed_decides_the_weights():
    config = ModelConfig("maskris", "tiny", image_weights="none")
    first, again, other = (build_model(config, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["decoder.lateral.0.weight"], other["decoder.lateral.0.weight"])
    assert not torch.equal(
        first["language.bert.encoder.layer.0.output.dense.weight"], other["language.bert.encoder.layer.0.output.dense.weight"]
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": "huge"}, "model.size: maskris has no huge; give one of tiny, small, base"),
        ({"words": 80}, "model.words: tiny takes at most 64 tokens, got 80"),
        ({"adapters": True}, "model.adapters: only"),
        ({"image_weights": "demo"}, "model.image_weights: demo does not exist; give none, a file or one of swin_b_w"),
        ({"text_weights": "b.bin"}, r"model.text_weights: b.bin does not exist; give none, a file or one of bert_base"),
        ({"vocabulary": "b.txt"}, "model.vocabulary: b.txt does not exist; give demo, a file or one of bert_base_uncased_v"),
        ({"image_weights": "sam_vit_b"}, "model.image_weights: sam_vit_b is sam vit_b; give none, a file or one of swin_b_w"),
        ({"text_weights": "bert_base_uncased_vocab"}, "model.text_weights: .* is bert_words bert_base_uncased; give none"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    config = ModelConfig(**{"name": "maskris", "size": "tiny", "image_weights": "none", **settings})
    with pytest.raises(UserError, match=message):
        build_model(config, 0)
