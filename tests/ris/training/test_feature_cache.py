"""Image features on disk: those of the image and the weights, computed once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Barrier

import numpy as np
import pytest
import torch
from plain_models import ColourModel, block, painted, target

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.ris.config import DataConfig, MaskingConfig, ScheduleConfig, TrainConfig
from pseudo_ris.ris.data.features import read_features
from pseudo_ris.ris.data.samples import framed_image
from pseudo_ris.ris.training.batches import is_grouped
from pseudo_ris.ris.training.distributed import Processes
from pseudo_ris.ris.training.feature_cache import FeatureCache

ONE = Processes(0, 1, torch.device("cpu"))


def frozen(size: int = 32) -> ColourModel:
    model = ColourModel(size, "letterbox")
    model.frozen_images = True
    model.register_buffer("weights", torch.zeros(2))
    return model


def picture(left: int) -> np.ndarray:
    return painted(block(40, 60, slice(5, 30), slice(left, left + 20)))


def targets() -> list:
    mask = block(40, 60, slice(5, 30), slice(0, 20))
    named = [("a.png", 0), ("b.png", 10), ("a.png", 0)]
    return [target(f"{name}, {place}", picture(left), mask, image=name) for place, (name, left) in enumerate(named)]


def test_each_image_is_computed_once_and_has_its_features(tmp_path):
    model = frozen()
    paths = FeatureCache(tmp_path, model).fill(targets(), ONE)
    assert len(paths) == len(set(paths)) == 2 and sum(model.images) == 2
    for path, left in zip(paths, (0, 10), strict=True):
        (kept,), size = read_features(path)
        assert size == (40, 60)
        torch.testing.assert_close(kept, framed_image(picture(left), model.form), atol=1e-3, rtol=0)
    assert FeatureCache(tmp_path, model).fill(targets()[::-1], ONE) == [paths[0], paths[1]]
    assert sum(model.images) == 2


def test_another_image_under_the_same_name_and_other_weights_are_computed_anew(tmp_path):
    model = frozen()
    first = FeatureCache(tmp_path, model).fill(targets()[:1], ONE)
    changed = target("a.png, 0", picture(3), block(40, 60, slice(5, 30), slice(0, 20)), image="a.png")
    assert FeatureCache(tmp_path, model).fill([changed], ONE) != first
    model.weights[0] = 1
    assert FeatureCache(tmp_path, model).fill(targets()[:1], ONE) != first
    assert FeatureCache(tmp_path, frozen(64)).fill(targets()[:1], ONE) != first
    assert sum(model.images) == 3


def test_what_learns_or_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"data\.features: the image tower of this model learns"):
        FeatureCache(tmp_path, ColourModel(32, "letterbox"))

    def missing() -> bytes:
        raise BadInputError("c.png: no such file")

    with pytest.raises(UserError, match=r"^a\.png, 0: c\.png: no such file"):
        FeatureCache(tmp_path, frozen()).fill([replace(targets()[0], read_image=missing)], ONE)


def test_features_and_several_sentences_make_samples_of_images():
    assert not is_grouped(TrainConfig(masking=MaskingConfig()))
    assert is_grouped(TrainConfig(schedule=ScheduleConfig(sentences=2)))
    assert is_grouped(TrainConfig(data=DataConfig(features="kept")))


def test_two_processes_compute_each_image_once_also_when_its_masks_are_dealt_to_both(tmp_path):
    """As threads, which meet where processes do."""
    meeting, items = Barrier(2, timeout=60), [[None, None]]

    @dataclass(frozen=True)
    class Together(Processes):
        def gather(self, item: object) -> list[object]:
            items[0][self.rank] = item
            meeting.wait()
            found = list(items[0])
            meeting.wait()
            return found

    models = [frozen(), frozen()]
    mask = block(40, 60, slice(5, 30), slice(0, 20))
    each_twice = [
        target(f"{left}.png, {place}", picture(left), mask, image=f"{left}.png") for left in range(5) for place in range(2)
    ]

    def fill(rank: int) -> list[object]:
        return FeatureCache(tmp_path, models[rank]).fill(each_twice, Together(rank, 2, ONE.device))

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(fill, range(2))
    assert first == second and all(path.is_file() for path in first)
    assert [sum(model.images) for model in models] == [3, 2]
