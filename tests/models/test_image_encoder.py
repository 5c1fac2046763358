"""The image encoder in parts against segment_anything's own forward."""

from functools import partial

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from torch import nn

from pseudo_ris.checkpoints.random_weights import fill_at_random
from pseudo_ris.models.sam import image_encoder
from pseudo_ris.models.sam.image_encoder import encode_image


def small_encoder(use_rel_pos=True, grid=11):
    """Windows of 4 do not divide its grid, so they are padded."""
    encoder = ImageEncoderViT(
        img_size=16 * grid,
        embed_dim=24,
        depth=2,
        num_heads=3,
        out_chans=8,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=use_rel_pos,
        window_size=4,
        global_attn_indexes=(1,),
    )
    fill_at_random(encoder, "sam")
    for name, parameter in encoder.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(len(name)))
    return encoder.eval()


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("use_rel_pos", [True, False])
@pytest.mark.parametrize("logits", [1, 3000, 2**20], ids=["one row", "some rows", "some heads"])
@torch.inference_mode()
def test_is_the_encoder(images, use_rel_pos, logits, monkeypatch):
    monkeypatch.setattr(image_encoder, "LOGITS_AT_ONCE", logits)
    monkeypatch.setattr(image_encoder, "POSITIONS_AT_ONCE", 50)
    encoder = small_encoder(use_rel_pos)
    pixels = torch.randn(images, 3, 176, 176, generator=torch.Generator().manual_seed(images))
    expected = encoder(pixels)
    assert expected.std() > 0.1
    torch.testing.assert_close(encode_image(encoder, pixels), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("use_rel_pos", [True, False])
@torch.inference_mode()
def test_fused_attention_is_the_encoder(use_rel_pos, monkeypatch):
    monkeypatch.setattr(image_encoder, "_mix_in_portions", image_encoder._mix_fused)
    encoder = small_encoder(use_rel_pos)
    pixels = torch.randn(2, 3, 176, 176, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(encode_image(encoder, pixels), encoder(pixels), atol=1e-4, rtol=1e-4)


def test_portions_cover_every_query_once():
    for heads, height, width in ((5, 7, 3), (1, 1, 1), (12, 14, 14)):
        for logits in (1, 50, 10**3, 10**6):
            count = torch.zeros(heads, height)
            for portion in image_encoder._portions(torch.Size((heads, height, width)), logits):
                count[portion] += 1
                assert count[portion].numel() == 1 or count[portion].numel() * width * height * width <= logits
            assert (count == 1).all()


@pytest.mark.slow
@torch.inference_mode()
def test_compiles_as_one_graph():
    encoder = small_encoder()
    pixels = torch.randn(1, 3, 176, 176)
    compiled = torch.compile(encode_image, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(encoder, pixels), encoder(pixels), atol=1e-4, rtol=1e-4)
