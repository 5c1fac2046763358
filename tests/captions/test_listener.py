"""The listener against the obvious way: the whole model on each text and crop."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pseudo_ris.captions.crops import cut_crops
from pseudo_ris.captions.distinctive import keyed_draw, sample, sample_heard, sampled_rows, write_candidates
from pseudo_ris.captions.listener import Hearing, Listeners, listen
from pseudo_ris.config import CocaConfig, CropConfig, DecodingConfig, ListenerConfig
from pseudo_ris.models.coca.captioner import CocaCaptioner
from pseudo_ris.world.scenes import draw_scene

SCENE = draw_scene("validation", 5, 1)
MASKS = len(SCENE.masks)
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
    """Two crop sets of the scene's masks."""
    cut = (cut_crops(SCENE.image, SCENE.masks, name, captioner.image_size, CropConfig()) for name in ("masked", "image_1.1"))
    return torch.cat(list(cut))


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


class Noted(Listeners):
    """Listeners that keep what they are given."""

    def __init__(self, latents: torch.Tensor, masks: int, rivals: int) -> None:
        super().__init__(latents, masks, rivals)
        self.found: list[tuple[torch.Tensor, int, torch.Tensor]] = []

    def hear(self, found: torch.Tensor, own: torch.Tensor, crops: torch.Tensor) -> list[Hearing]:
        self.found += [(of_text, int(crop), crops) for of_text, crop in zip(found, own, strict=True)]
        return super().hear(found, own, crops)


def check(captioner, crops, listeners: Noted, texts, heard, masks: int) -> None:
    """Every likelihood and hearing against the oracle. texts: in the order in which `listeners` heard them, as `heard` is."""
    assert len(listeners.found) == len(texts) == len(heard)
    for (found, own, read), ids, (probability, rival, confidence) in zip(listeners.found, texts, heard, strict=True):
        asked = [own, *listeners.rivals[own].tolist()]
        logs = {crop: token_logs(captioner, crops[crop], ids) for crop in asked}
        for place, crop in enumerate(read.tolist()):
            if crop not in logs:
                assert (found[:, place] == -torch.inf).all()
                continue
            expected = logs[crop].sum().item(), logs[crop].min().item()
            assert found[:, place].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)
        likelihood = {crop: each.sum().exp().item() for crop, each in logs.items()}
        assert probability == pytest.approx(likelihood[own] / sum(likelihood.values()), abs=1e-5)
        assert confidence == pytest.approx(logs[own].min().exp().item(), abs=1e-5)
        assert rival == max(asked[1:], key=likelihood.get) % masks


@pytest.mark.parametrize("chunk_bytes", [1, 10**5, 10**9])
def test_finished_texts_are_heard_as_the_whole_model_hears_them(captioner, crops, texts, chunk_bytes, monkeypatch):
    monkeypatch.setattr(captioner, "chunk_bytes", chunk_bytes)
    images = captioner.encode(crops)
    listeners, own = Noted(images.latents, MASKS, 2), torch.tensor([0, 3, 1, MASKS, MASKS + 2])
    heard = listen(captioner, images, texts, own, listeners)
    order = sorted(range(len(texts)), key=lambda number: texts[number])
    check(captioner, crops, listeners, [texts[at] for at in order], [heard[at] for at in order], MASKS)
    assert [of_text[1] for of_text in listeners.found] == own[order].tolist()


@pytest.mark.parametrize(
    "decoding",
    [
        SHORT,
        replace(SHORT, max_length=20, top_p=(0.9,)),
        replace(SHORT, calibration="none"),
        replace(SHORT, max_distractors=1),
        replace(SHORT, max_distractors=1, distractor_overflow="skip"),
    ],
)
@pytest.mark.parametrize("chunk_bytes", [10**6, 10**9])
def test_sampled_texts_are_heard_as_the_whole_model_hears_them(captioner, crops, decoding, chunk_bytes, monkeypatch):
    monkeypatch.setattr(captioner, "chunk_bytes", chunk_bytes)
    images = captioner.encode(crops)
    rows = sampled_rows(("masked", "image_1.1"), range(MASKS), decoding)
    listeners, draw = Noted(images.latents, MASKS, 2), keyed_draw(0, "image")
    sampled = sample_heard(captioner, images, rows, decoding, draw, listeners)
    captions, heard = map(list, zip(*sampled, strict=True))
    assert captions == sample(captioner, images, rows, decoding, draw)
    forced = [len(ids) == decoding.max_length for ids in captions]  # an end token that was not drawn
    assert any(forced) or decoding.max_length == 20
    drawn = [ids[:-1] if cut else ids for ids, cut in zip(captions, forced, strict=True)]
    check(captioner, crops, listeners, drawn, heard, MASKS)
    assert [of_text[1] for of_text in listeners.found] == [row.crop for row in rows]


def test_rivals_are_the_most_similar_crops_of_the_same_set():
    latents = torch.nn.functional.normalize(torch.randn(12, 5, generator=torch.Generator().manual_seed(0)))
    similarity = latents @ latents.T
    for crop, rivals in enumerate(Listeners(latents, 4, 2).rivals.tolist()):
        others = [other for other in range(crop // 4 * 4, crop // 4 * 4 + 4) if other != crop]
        assert rivals == sorted(others, key=lambda other: -similarity[crop, other])[:2]
    assert Listeners(latents, 4, 9).rivals.shape == (12, 3)


def test_one_mask_has_only_its_confidence(captioner, crops, texts):
    images = captioner.encode(crops[:1])
    for probability, rival, confidence in listen(
        captioner, images, texts, torch.zeros(len(texts), dtype=torch.long), Listeners(images.latents, 1, 4)
    ):
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
