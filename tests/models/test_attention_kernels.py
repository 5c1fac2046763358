"""Which attention kernels stage 2 leaves torch to choose from."""

import torch
from coca_oracle import random_captioner
from torch.nn import functional

from pseudo_ris.captions.beam_search import beam_search
from pseudo_ris.config import DecodingConfig
from pseudo_ris.models.clip.scorer import ClipScorer, build_clip, build_tokenizer
from pseudo_ris.models.coca import decoding


def test_no_attention_of_stage_2_may_be_cudnns(monkeypatch):
    """cuDNN plans each new shape, and here nearly all shapes are new."""
    attention, allowed = functional.scaled_dot_product_attention, []

    def noted(*args, **kwargs):
        allowed.append(torch.backends.cuda.cudnn_sdp_enabled())
        return attention(*args, **kwargs)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", noted)
    monkeypatch.setattr(decoding, "scaled_dot_product_attention", noted)
    assert torch.backends.cuda.cudnn_sdp_enabled()
    captioner = random_captioner(1)
    images = captioner.encode(torch.randn(2, 3, 16, 16))
    after_images = len(allowed)
    beam_search(captioner, images, DecodingConfig(max_length=8))
    after_words = len(allowed)
    scorer = ClipScorer(build_clip("demo"), build_tokenizer("demo"))
    scorer.embed_images(torch.randn(1, 3, scorer.image_size, scorer.image_size))
    scorer.embed_texts(["a dog"])
    assert 0 < after_images < after_words < len(allowed)
    assert not any(allowed)
    assert torch.backends.cuda.cudnn_sdp_enabled()
