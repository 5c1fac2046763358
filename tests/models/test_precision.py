"""The `precision` settings of the shipped models: nearly what single precision gives, in half the memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pseudo_ris.captions.crops import cut_crops
from pseudo_ris.captions.distinctive import write_candidates
from pseudo_ris.config import ClipConfig, CocaConfig, CropConfig, CutlerConfig, DecodingConfig
from pseudo_ris.models.clip.scorer import ClipScorer
from pseudo_ris.models.coca.captioner import CocaCaptioner
from pseudo_ris.models.cutler.detector import Cutler
from pseudo_ris.world.scenes import draw_scene

HALVES = ("bf16", "fp16")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scene():
    return draw_scene("evaluation", 5, 0)


@pytest.mark.parametrize("precision", HALVES)
def test_cutler_finds_the_same_objects(scene, precision):
    single = Cutler.from_config(CutlerConfig(), "cpu").detect(scene.image)
    half = Cutler.from_config(CutlerConfig(precision=precision), "cpu")
    assert {parameter.dtype for parameter in half.model.backbone.parameters()} == {DTYPES[precision]}
    found = half.detect(scene.image)
    assert len(found.scores) == len(single.scores)
    np.testing.assert_allclose(found.boxes, single.boxes, atol=2.0)
    assert found.scores.dtype == np.float32


@pytest.mark.parametrize("precision", HALVES)
def test_coca_writes_mostly_the_same_captions_and_projects_in_single(scene, precision):
    decoding = replace(DecodingConfig(), top_k=(5,), top_p=(0.4,))
    texts = {}
    for name in ("fp32", precision):
        captioner = CocaCaptioner.from_config(CocaConfig(precision=name), "cpu")
        assert captioner.projection.dtype == torch.float32
        seg_ids = list(range(len(scene.masks)))
        written = write_candidates(captioner, scene.image, scene.masks, seg_ids, "s", decoding, CropConfig())
        texts[name] = [candidate.text for own in written for candidate in own]
    assert captioner.model.text.token_embedding.weight.dtype == DTYPES[precision]
    same = [one == other for one, other in zip(texts["fp32"], texts[precision], strict=True)]
    assert np.mean(same) > 0.7


@pytest.mark.parametrize("precision", HALVES)
def test_clip_scores_are_close_and_in_single(scene, precision):
    scores = {}
    for name in ("fp32", precision):
        scorer = ClipScorer.from_config(ClipConfig(precision=name), "cpu")
        crops = cut_crops(scene.image, scene.masks, "image_1.2", scorer.image_size, CropConfig())
        scores[name] = scorer.logits(scorer.embed_images(crops), scorer.embed_texts(["a red square", "a small dog"]))
    assert scores[precision].dtype == torch.float32
    torch.testing.assert_close(scores[precision], scores["fp32"], atol=0.3, rtol=0.02)


@pytest.mark.gpu
def test_the_releases_precision_on_a_gpu(scene):
    """CoCa has fp32 weights and is decoded under fp16 autocast, CLIP has fp16 weights; on a CPU both are in fp32."""
    decoding = replace(DecodingConfig(), top_k=(5,), top_p=(0.4,))
    texts, scores = [], []
    for device in ("cpu", "cuda"):
        captioner = CocaCaptioner.from_config(CocaConfig(precision="autocast"), device)
        scorer = ClipScorer.from_config(ClipConfig(precision="fp16_on_cuda"), device)
        seg_ids = list(range(len(scene.masks)))
        written = write_candidates(captioner, scene.image, scene.masks, seg_ids, "s", decoding, CropConfig())
        texts.append([candidate.text for own in written for candidate in own])
        crops = cut_crops(scene.image, scene.masks, "image_1.2", scorer.image_size, CropConfig())
        scores.append(scorer.logits(scorer.embed_images(crops), scorer.embed_texts(["a red square", "a small dog"])).cpu())
        with captioner.autocast():
            logits = captioner.layers.project(torch.randn(3, len(captioner.projection), device=device))
        assert logits.dtype == captioner.model.text.token_embedding.weight.dtype == torch.float32
        assert torch.equal(logits, logits.half().float()) == (device == "cuda")
        assert scorer.model.visual.conv1.weight.dtype == (torch.float16 if device == "cuda" else torch.float32)
    assert np.mean([one == other for one, other in zip(*texts, strict=True)]) > 0.7
    torch.testing.assert_close(scores[1], scores[0], atol=0.3, rtol=0.02)
