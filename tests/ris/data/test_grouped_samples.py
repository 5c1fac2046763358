"""Samples of an image with several sentences."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from plain_models import CHANNELS, block, painted, target
from tiny_model import SIDE, TinyModel

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.ris.data.features import pack_features
from pseudo_ris.ris.data.samples import GroupsDataset, PairsDataset
from pseudo_ris.ris.data.targets import Target, by_image


def targets(images: int = 3, objects: int = 3) -> list[Target]:
    """Objects of an image in three channels; each has two sentences of its colour. Images alternate."""
    made = []
    for place in range(objects):
        for number in range(images):
            masks = [block(40, 48, slice(4 * part, 4 * part + 12), slice(number, number + 20)) for part in range(3)]
            colour = CHANNELS[place]
            name, sentences = f"{number}.png", (colour, f"{colour} one")
            made.append(target(f"{name}, mask {place}", painted(*masks), masks[place], sentences, image=name))
    return made


def groups(made: list[Target], sentences: int, **options) -> GroupsDataset:
    model = TinyModel()
    return GroupsDataset(made, 0, model.form, model.tokenizer, sentences, **options)


def test_targets_of_an_image_are_found_by_name_and_folder():
    made = targets(2, 2)
    assert by_image(made) == [[0, 2], [1, 3]]
    assert by_image([made[0], replace(made[0], folder="other"), made[2]]) == [[0, 2], [1]]
    assert by_image([replace(each, image="") for each in made]) == [[0], [1], [2], [3]]


@pytest.mark.parametrize("sentences", [1, 2, 3, 7])
def test_each_mask_gets_its_turn_with_its_own_sentence(sentences):
    """Oracle: the sample of the mask alone."""
    made = targets()
    dataset = groups(made, sentences)
    alone = PairsDataset(made, form=dataset.form, tokenizer=dataset.tokenizer)
    assert len(dataset) == 3
    for number, sample in enumerate(dataset):
        assert sample["mask"].shape == (sentences, SIDE, SIDE) and sample["index"].shape == (sentences,)
        for row, index in enumerate(sample["index"].tolist()):
            own = alone[index]
            assert index % 3 == number
            torch.testing.assert_close(sample["mask"][row], own["mask"])
            torch.testing.assert_close(sample["image"], own["image"])
            torch.testing.assert_close(sample["tokens"][row], own["tokens"])
        turns = Counter(sample["index"].tolist())
        assert max(turns.values()) - min(turns.values()) <= 1 and len(turns) == min(3, sentences)


def test_what_is_drawn_depends_on_seed_epoch_and_index_only():
    dataset = groups(targets(5), 2)
    first = [sample["index"].tolist() for sample in dataset]
    assert first == [groups(targets(5), 2)[number]["index"].tolist() for number in range(5)]
    dataset.set_epoch(1)
    assert [sample["index"].tolist() for sample in dataset] != first


def test_features_take_the_place_of_images(tmp_path):
    kept = (torch.rand(1, 4, 8, 8), torch.tensor([[1000.123]]), torch.tensor([[True, False]]))
    path = tmp_path / "a.safetensors"
    path.write_bytes(pack_features(kept, (40, 48)))
    with_features = groups(targets(1), 2, features=[path])[0]
    for got, given in zip(with_features["image"], kept, strict=True):
        torch.testing.assert_close(got, given[0], atol=1e-3 if given.ndim == 4 else 0, rtol=0)
    torch.testing.assert_close(with_features["mask"], groups(targets(1), 2)[0]["mask"])
    path.write_bytes(pack_features(kept, (40, 49)))
    with pytest.raises(BadInputError, match=r"^0\.png, mask \d: 48x40 pixels, its image has 49x40"):
        groups(targets(1), 2, features=[path])[0]
    path.write_bytes(b"no features")
    with pytest.raises(BadInputError, match=r"not a readable file of image features.*remove it"):
        groups(targets(1), 2, features=[path])[0]


def test_a_mask_that_does_not_fit_is_named():
    made = targets(1, 2)
    made[1] = replace(made[1], read_mask=lambda: np.ones((3, 3), bool))
    with pytest.raises(BadInputError, match=r"^0\.png, mask 1: 3x3 pixels, its image has 48x40"):
        groups(made, 2)[0]
    with pytest.raises(UserError, match="no mask has an expression"):
        groups([], 2)
