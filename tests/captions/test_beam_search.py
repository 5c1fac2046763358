"""Beam search against a slow version with all beam groups, whole prefixes and transformers' bookkeeping spelt out."""

import pytest
import torch
from coca_oracle import END, START, full_prefix_logits, random_captioner

from pseudo_ris.captions.beam_search import Hypotheses, beam_search
from pseudo_ris.config import DecodingConfig


def one_group(model, crop, decoding):
    """(score, ids) of every hypothesis that one beam group ends with."""
    size = decoding.beams // decoding.beam_groups
    open_beams, kept = [(0.0, [START])], []

    def keep(total, ids, length):
        kept.append((total / length, ids))
        kept.sort(key=lambda entry: entry[0])
        del kept[:-size]

    while open_beams and len(open_beams[0][1]) < decoding.max_length:
        options = []
        for total, ids in open_beams:
            logits = full_prefix_logits(model, crop, ids)[0].tolist()
            if len(ids) < decoding.min_length:
                logits[END] = -torch.inf
            options += [(total + logit, [*ids, token]) for token, logit in enumerate(logits)]
        options = sorted(options, key=lambda option: -option[0])[: 2 * size]
        for total, ids in options[:size]:
            if ids[-1] == END:
                keep(total, ids, len(ids) - (decoding.beam_length == "without_end"))
        open_beams = [option for option in options if option[1][-1] != END][:size]
        if len(kept) == size and kept[0][0] >= options[0][0] / len(options[0][1]):
            return kept
    for total, ids in open_beams:
        keep(total, ids, len(ids))
    return kept


def expected_caption(model, crop, decoding):
    found = [entry for _ in range(decoding.beam_groups) for entry in one_group(model, crop, decoding)]
    return max(found, key=lambda entry: entry[0])[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "beams", "groups", "beam_length"),
    [(1, 6, 3, "with_end"), (1, 6, 3, "without_end"), (2, 2, 1, "without_end"), (3, 4, 1, "with_end"), (4, 3, 3, "with_end")],
)
@torch.inference_mode()
def test_is_the_slow_search(seed, beams, groups, beam_length):
    captioner = random_captioner(seed)
    captioner.projection[:, END] *= 2  # some captions end, some do not
    crops = torch.randn(5, 3, 16, 16)
    decoding = DecodingConfig(beams=beams, beam_groups=groups, max_length=9, min_length=4, beam_length=beam_length)
    found = beam_search(captioner, captioner.encode(crops), decoding)
    assert found == [expected_caption(captioner.model, crop[None], decoding) for crop in crops]


@torch.inference_mode()
def test_cases_cover_ended_and_unended_captions():
    ended = set()
    for seed in (1, 2, 3, 4):
        captioner = random_captioner(seed)
        captioner.projection[:, END] *= 2
        images = captioner.encode(torch.randn(5, 3, 16, 16))
        found = beam_search(captioner, images, DecodingConfig(max_length=9, min_length=4))
        ended |= {ids[-1] == END for ids in found}
        assert all(END not in ids[:4] for ids in found)
    assert ended == {True, False}


@torch.inference_mode()
def test_not_counting_the_end_token_ends_more_captions():
    """Sums of these logits are positive, so a smaller length makes finished captions better."""
    captioner = random_captioner(6)
    captioner.projection[:, END] *= 2
    images = captioner.encode(torch.randn(5, 3, 16, 16))
    settings = [DecodingConfig(max_length=9, min_length=4, beam_length=rule) for rule in ("with_end", "without_end")]
    ended = [sum(ids[-1] == END for ids in beam_search(captioner, images, decoding)) for decoding in settings]
    assert ended == [0, 5]


@torch.inference_mode()
def test_a_crop_does_not_depend_on_its_batch():
    captioner = random_captioner(5)
    crops = torch.randn(4, 3, 16, 16)
    together = beam_search(captioner, captioner.encode(crops), DecodingConfig(max_length=12))
    alone = [beam_search(captioner, captioner.encode(crop[None]), DecodingConfig(max_length=12))[0] for crop in crops]
    assert together == alone


def test_hypotheses_keep_the_best_and_the_older_of_equals():
    hypotheses = Hypotheses(2)
    for ids, total, length in [([1], 6.0, 3), ([2], 2.0, 2), ([3], 4.0, 4), ([4], 9.0, 6)]:
        hypotheses.add(ids, total, length)
    assert hypotheses.found == [(2.0, [1]), (1.5, [4])]
    assert hypotheses.best() == [1]
    assert hypotheses.settled(1.5 * 7, 7)
    assert not hypotheses.settled(1.6 * 7, 7)
