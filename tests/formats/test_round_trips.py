"""Every format gives back what was written into it."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from random_sets import sets

from pseudo_ris.formats.registry import FORMATS, Writing, write_verified

PAIRS = 500
WITH_IMAGES = Writing("some-set", copy_images=True)


def content(images) -> list:
    """Everything of a set, the images' bytes included."""
    return [(image, image.read()) for image in images]


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_500_random_pairs_come_back_as_they_were(name):
    seen = []

    @settings(max_examples=25, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(sets())
    def round_trip(images):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            FORMATS[name].write(out, iter(images), WITH_IMAGES)
            assert content(FORMATS[name].read(out, None)) == content(images)
        seen.extend(sentence for image in images for each in image.objects for sentence in each.sentences)

    round_trip()
    assert len(seen) >= PAIRS


@settings(max_examples=2, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(sets())
def test_a_chain_of_all_formats_changes_nothing(images):
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder) / "0"
        first, *others = FORMATS
        write_verified(at, lambda: images, first, WITH_IMAGES)
        for number, (source, target) in enumerate(itertools.pairwise([first, *others, first]), start=1):
            out = Path(folder) / str(number)
            read = FORMATS[source].read
            write_verified(out, lambda read=read, at=at: read(at, None), target, WITH_IMAGES)
            at = out
        assert content(FORMATS[first].read(at, None)) == content(images)
