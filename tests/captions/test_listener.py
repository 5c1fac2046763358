"""The listener against the obvious way: the whole model on each text and crop."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pseudo_ris.captions.crops import cut_crops
from pseudo_ris.captions.distinctive import write_candidates
from pseudo_ris.captions.listener import Hearing, listen, log_likelihoods
from pseudo_ris.config import CocaConfig, CropConfig, DecodingConfig, ListenerConfig
from pseudo_ris.models.coca.captioner import CocaCaptioner
from pseudo_ris.world.scenes import draw_scene

SCENE = draw_scene("validation", 5, 1)
TEXTS = (
    "a small red ball",
    "a small red star",
    "the large striped cup on the ground",
    "a duck",
    "a small red ball in the picture",
)
SHORT = DecodingConfig(top_k=(5,), top_p=(), beams=1, beam_groups=1, max_length=8)


@pytest.fixture(scope="module")
def captioner() -> CocaCaptioner:
    return CocaCaptioner.from_config(CocaConfig(), "cpu")


@pytest.fixture(scope="module")
def crops(captioner) -> torch.Tensor:
    return cut_crops(SCENE.image, SCENE.masks, "masked", captioner.image_size, CropConfig())


@pytest.fixture(scope="module")
def texts(captioner) -> list[list[int]]:
    return [[captioner.start, *captioner.tokenizer.encode(text), captioner.end] for text in TEXTS]


@torch.inference_mode()
def token_logs(captioner: CocaCaptioner, crop: torch.Tensor, ids: list[int]) -> torch.Tensor:
    """The oracle: log-probabilities of the tokens after the first, float64, from one forward pass of the whole model."""
    _, tokens = captioner.model._encode_image(crop[None])
    _, embedded = captioner.model._encode_text(torch.tensor([ids]))
    logits = captioner.model.text_decoder(tokens, embedded)[0]
    return logits.double().log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]


@pytest.mark.parametrize("chunk_bytes", [1, 10**5, 10**9])
def test_likelihoods_are_those_of_the_whole_model(captioner, crops, texts, chunk_bytes, monkeypatch):
    monkeypatch.setattr(captioner, "chunk_bytes", chunk_bytes)
    images = captioner.encode(crops)
    readers = torch.rand(len(texts), len(crops), generator=torch.Generator().manual_seed(0)) < 0.7
    readers[:, 0] = True
    total, lowest = log_likelihoods(captioner, images, texts, readers)
    for text, ids in enumerate(texts):
        for crop in range(len(crops)):
            if not readers[text, crop]:
                assert total[text, crop] == lowest[text, crop] == -torch.inf
                continue
            expected = token_logs(captioner, crops[crop], ids)
            assert total[text, crop].item() == pytest.approx(expected.sum().item(), rel=1e-5, abs=1e-5)
            assert lowest[text, crop].item() == pytest.approx(expected.min().item(), rel=1e-5, abs=1e-5)


def test_a_text_is_heard_among_its_mask_and_the_most_similar_others(captioner, crops, texts):
    images = captioner.encode(crops)
    count = len(crops)
    everything = torch.ones(len(texts), count, dtype=torch.bool)
    total, lowest = log_likelihoods(captioner, images, texts, everything)
    similarity = images.latents @ images.latents.T
    heard = listen(captioner, images, [texts] * count, ListenerConfig(rivals=2))
    for mask in range(count):
        others = sorted((other for other in range(count) if other != mask), key=lambda other: -similarity[mask, other])[:2]
        for text in range(len(texts)):
            among = total[text, [mask, *others]].exp()
            probability, rival, confidence = heard[mask][text]
            assert probability == pytest.approx((among[0] / among.sum()).item(), abs=1e-6)
            assert rival == max(others, key=lambda other: total[text, other])
            assert confidence == pytest.approx(lowest[text, mask].exp().item(), abs=1e-6)


def test_without_rivals_nothing_is_heard_and_one_mask_has_only_its_confidence(captioner, crops, texts):
    images = captioner.encode(crops[:1])
    assert listen(captioner, images, [texts], ListenerConfig(rivals=0)) == [[Hearing()] * len(texts)]
    for probability, rival, confidence in listen(captioner, images, [texts], ListenerConfig(rivals=4))[0]:
        assert (probability, rival) == (1.0, -1)
        assert 0 < confidence < 1


def test_candidates_are_the_same_with_and_without_a_listener(captioner):
    masks = SCENE.masks[:3]

    def written(rivals: int):
        return write_candidates(captioner, SCENE.image, masks, [4, 5, 9], "image", SHORT, CropConfig(), ListenerConfig(rivals))

    with_listener = written(2)
    unheard = [[replace(c, listener=1.0, listener_rival=-1, confidence=1.0) for c in own] for own in with_listener]
    assert unheard == written(0)
    assert all(
        0 <= c.listener <= 1 and c.listener_rival in {0, 1, 2} - {mask} for mask, own in enumerate(with_listener) for c in own
    )
