"""Decoding in chunks: the same captions for any bound of memory, and a bound that learns."""

import random

import pytest
import torch
from coca_oracle import random_captioner

from pseudo_ris.captions.beam_search import beam_search
from pseudo_ris.captions.distinctive import keyed_draw, sample, sampled_rows
from pseudo_ris.config import DecodingConfig
from pseudo_ris.models.coca.chunks import entry_bytes, in_chunks

LENGTH = 7


def encoded(captioner, crops):
    return captioner.encode(torch.randn(crops, 3, 16, 16))


def captions(captioner, images, crop_sets, decoding):
    masks = len(images.latents) // len(crop_sets)
    rows = sampled_rows(crop_sets, range(masks), decoding)
    return sample(captioner, images, rows, decoding, keyed_draw(0, "image")), beam_search(captioner, images, decoding)


@pytest.mark.slow
@pytest.mark.parametrize("masks", [1, 2, 3, 7, 20, 64])
def test_captions_do_not_depend_on_chunks(masks):
    choose = random.Random(masks)
    captioner = random_captioner(masks)
    crop_sets = ("masked", "image_1.0")[: 1 + (masks < 10)]
    images = encoded(captioner, masks * len(crop_sets))
    decoding = DecodingConfig(
        min_token_probability=0, max_distractors=choose.choice([2, 8]), max_length=LENGTH, top_k=(3, 9), top_p=(0.4, 0.8)
    )
    whole = captions(captioner, images, crop_sets, decoding)
    row = sum(entry_bytes(captioner, images, LENGTH)) * (1 + min(masks - 1, decoding.max_distractors))
    for chunks in (2, choose.uniform(3, 12)):
        captioner.chunk_bytes = int(row * 4 * masks / chunks)
        assert captions(captioner, images, crop_sets, decoding) == whole


def chunks_of(captioner, images, viewers, copies, work=None):
    """Row and crop numbers of each chunk."""

    def record(rows, crops):
        if work is not None:
            work(rows, crops)
        return [(list(range(rows.start, rows.stop)), crops.tolist())]

    return in_chunks(captioner, images, viewers, copies, LENGTH, record)


def test_every_row_comes_once_with_its_crops_within_the_bound():
    captioner = random_captioner(1)
    images = encoded(captioner, 6)
    prefix, cell, crop = entry_bytes(captioner, images, LENGTH)
    viewers = torch.rand(40, 6, generator=torch.Generator().manual_seed(1)) < 0.4
    for copies in (1, 3):
        for bound in (1, 20 * cell, 60 * cell):
            captioner.chunk_bytes = bound
            found = chunks_of(captioner, images, viewers, copies)
            assert [row for rows, _ in found for row in rows] == list(range(40))
            for rows, crops in found:
                assert crops == viewers[rows].any(0).nonzero()[:, 0].tolist()
                size = copies * (prefix * len(rows) + cell * int(viewers[rows].sum())) + crop * len(crops)
                assert size <= bound or len(rows) == 1
    assert len(found) < 20


def test_caches_take_what_is_counted():
    captioner = random_captioner(2)
    images = encoded(captioner, 1)
    prefix, cell, crop = entry_bytes(captioner, images, LENGTH)
    assert crop == sum(pair.nbytes for pair in captioner.image_keys(images, torch.arange(1)))
    blocks = [*captioner.model.text.transformer.resblocks, *captioner.model.text_decoder.resblocks]
    assert prefix + cell == len(blocks) * 2 * LENGTH * 32 * 4


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
    ],
)
def test_a_bound_that_memory_does_not_hold_is_halved_and_remembered(error):
    captioner = random_captioner(3)
    images, viewers = encoded(captioner, 4), torch.ones(24, 4, dtype=torch.bool)
    tried = []

    def work(rows, crops):
        tried.append(rows.stop - rows.start)
        if tried[-1] > 7:
            raise error

    found = chunks_of(captioner, images, viewers, 1, work)
    assert [row for rows, _ in found for row in rows] == list(range(24))
    assert tried[0] == 24 and max(tried[tried.index(min(tried)) :]) <= 7
    failures = sum(size > 7 for size in tried)
    assert failures in (2, 3)
    tried.clear()
    chunks_of(captioner, images, viewers, 1, work)
    assert max(tried) <= 7


def test_a_single_row_that_does_not_fit_is_an_error():
    captioner = random_captioner(4)

    def work(rows, crops):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        chunks_of(captioner, encoded(captioner, 2), torch.ones(5, 2, dtype=torch.bool), 1, work)


def test_other_errors_are_not_tried_again_with_fewer_rows():
    captioner = random_captioner(4)
    tried = []

    def work(rows, crops):
        tried.append(rows)
        raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side assert"):
        chunks_of(captioner, encoded(captioner, 2), torch.ones(5, 2, dtype=torch.bool), 1, work)
    assert len(tried) == 1
