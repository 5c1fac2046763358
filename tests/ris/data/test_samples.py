"""Training samples: from a pairs CSV or from pairs, the same for any number of workers."""

from __future__ import annotations

import csv
import io
import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from pseudo_ris.captions.crops import CLIP_MEAN, CLIP_STD
from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.formats.etris import read_lmdb, write_lmdb
from pseudo_ris.io.mask_png import encode_mask
from pseudo_ris.pairs.pair_set import PairImage, PairObject, Rle
from pseudo_ris.pairs.rows import PAPER_COLUMNS
from pseudo_ris.ris.data.samples import ETRIS_FORM, PairsDataset
from pseudo_ris.ris.data.targets import Target, targets_of_csv, targets_of_images
from pseudo_ris.ris.models.base import SampleForm
from pseudo_ris.ris.models.cris.tokenizer import ClipTokenizer
from pseudo_ris.ris.models.letterbox import Letterbox
from pseudo_ris.storage.compaction.archive import SHARDS
from pseudo_ris.storage.compaction.rows import Row, write_shard
from pseudo_ris.storage.mask_store import META

START, END = 49406, 49407
HEIGHT, WIDTH = 20, 30


class Bytes:
    """Reads bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __call__(self) -> bytes:
        return self.data


def picture(seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(file, "png")
    return file.getvalue()


def form(side: int) -> SampleForm:
    return replace(ETRIS_FORM, input_size=side)


def square_mask(left: int = 5) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[4:12, left : left + 10] = True
    return mask


def targets(count: int = 12) -> list[Target]:
    mask = Rle.of(square_mask())
    return [
        Target(f"{number}.png", Bytes(picture(number)), mask.decode, tuple(f"dog {word}" for word in range(10)))
        for number in range(count)
    ]


def drawn(dataset: PairsDataset) -> list[tuple[int, ...]]:
    return [tuple(sample["tokens"].tolist()) for sample in dataset]


def test_a_training_sample_has_the_documented_shapes_and_types():
    dataset = PairsDataset(targets(3), form=form(64), tokenizer=ClipTokenizer(9))
    sample = dataset[2]
    looks = {name: (value.dtype, tuple(value.shape)) for name, value in sample.items()}
    assert looks == {
        "image": (torch.float32, (3, 64, 64)),
        "mask": (torch.float32, (64, 64)),
        "tokens": (torch.int64, (9,)),
        "attention": (torch.bool, (9,)),
        "index": (torch.int64, ()),
    }
    assert int(sample["index"]) == 2
    assert len(dataset) == 3
    assert sample["tokens"][0] == START


def test_a_validation_sample_has_all_expressions_and_the_way_back():
    sample = PairsDataset(targets(1), "val", form=form(64))[0]
    assert sample["tokens"].shape == (10, 17)
    assert sample["mask"].dtype == torch.bool
    np.testing.assert_array_equal(sample["mask"].numpy(), square_mask())
    # pixels of the square at the corners of the picture, which is 64 wide and 64 * 20 / 30 high there
    corners = torch.tensor([[0, 64], [(64 - 64 * 20 / 30) / 2, (64 + 64 * 20 / 30) / 2], [1, 1]], dtype=torch.float64)
    torch.testing.assert_close(sample["inverse"] @ corners, torch.tensor([[0.0, 30], [0, 20]]).double(), atol=1e-4, rtol=0)


def test_expressions_are_cut_to_length_with_the_end_last():
    long = replace(targets(1)[0], sentences=("the big red dog on the left side of the old wooden house by the lake",))
    tokens = PairsDataset([long])[0]["tokens"].tolist()
    assert (tokens[0], tokens[-1], len(tokens)) == (START, END, 17)
    assert END not in tokens[:-1]
    short = PairsDataset([replace(long, sentences=("",))])[0]["tokens"].tolist()
    assert short == [START, END] + [0] * 15


@pytest.mark.parametrize(("height", "width"), [(416, 416), (208, 416), (416, 104)])
def test_pictures_are_centred_between_borders_of_clips_mean(height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    top, left = (416 - height) // 2, (416 - width) // 2
    square = Letterbox.of(height, width, 416).image(pixels, np.array(CLIP_MEAN), np.array(CLIP_STD)).transpose(1, 2, 0)
    inner = square[top : top + height, left : left + width]
    np.testing.assert_allclose(inner, (pixels / 255 - CLIP_MEAN) / CLIP_STD, atol=1e-5)
    outside = np.ones((416, 416), bool)
    outside[top : top + height, left : left + width] = False
    # bicubic samples reach two pixels beyond the edge; the border is rounded to a grey level
    assert np.abs(square[outside]).max(initial=0) < 1 / 255 / min(CLIP_STD)


def test_masks_are_placed_like_their_pictures():
    mask = np.zeros((104, 208), bool)
    mask[20:40, 100:130] = True
    square = Letterbox.of(104, 208, 416).mask(mask)
    assert square.sum() == pytest.approx(4 * mask.sum(), rel=1e-3)
    rows, columns = np.nonzero(square > 0.5)
    # pixel (x, y) lies at (2 x, 2 y + 104): places, not areas, are mapped, as by ETRIS
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (104 + 40, 104 + 78, 200, 258)


def test_the_expression_drawn_depends_on_seed_epoch_and_index_only():
    dataset = PairsDataset(targets(), form=form(32))
    first = drawn(dataset)
    assert drawn(dataset) == first
    assert drawn(PairsDataset(targets(), form=form(32))) == first
    assert tuple(dataset[7]["tokens"].tolist()) == first[7]
    assert len(set(first)) > 3
    dataset.set_epoch(1)
    assert drawn(dataset) != first
    dataset.set_epoch(0)
    assert drawn(dataset) == first
    assert drawn(PairsDataset(targets(), seed=1, form=form(32))) != first


def test_all_expressions_are_drawn_about_equally_often():
    dataset = PairsDataset(targets(1), form=form(32))
    counts: dict[tuple[int, ...], int] = {}
    for epoch in range(400):
        dataset.set_epoch(epoch)
        key = tuple(dataset[0]["tokens"].tolist())
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 10
    assert 20 < min(counts.values()) <= max(counts.values()) < 65


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing_and_see_the_epoch(workers):
    dataset = PairsDataset(targets(), form=form(32))
    loader = DataLoader(dataset, batch_size=3, num_workers=workers, persistent_workers=workers > 0)
    for epoch in (0, 1, 5):
        dataset.set_epoch(epoch)
        alone = PairsDataset(targets(), form=form(32))
        alone.set_epoch(epoch)
        batches = list(loader)
        assert batches[0]["image"].shape == (3, 3, 32, 32)
        tokens = [tuple(row) for batch in batches for row in batch["tokens"].tolist()]
        assert tokens == drawn(alone)


def test_pairs_of_any_format_give_their_objects_with_all_sentences(tmp_path):
    objects = (
        PairObject(0, 0, 0, Rle.of(square_mask()), ("a dog", "left"), (0, 1)),
        PairObject(1, 1, 1, Rle.of(square_mask(9)), (), ()),
        PairObject(2, 2, 2, Rle.of(square_mask(12)), ("a cat",), (2,)),
    )
    images = [PairImage("7", "7.png", HEIGHT, WIDTH, "train", objects, Bytes(picture()))]
    write_lmdb(tmp_path / "out", images)
    for source in (images, read_lmdb(tmp_path / "out")):
        found = targets_of_images(source)
        assert [each.sentences for each in found] == [("a dog", "left"), ("a cat",)]
        assert found[0].read_image() == picture()
        np.testing.assert_array_equal(found[1].read_mask(), square_mask(12))


def write_csv(folder: Path, *rows: dict) -> list[Path]:
    """Pairs, images and masks as stage 2 leaves them."""
    plain = {
        "img_name": "a.png",
        "img_id": "a",
        "seg_id": 0,
        "pseudo_caption": ["x", "y", "z"],
        "doc": [0.9, 1.1, 1.5],
        "one_mask": 0,
    }
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a.png").write_bytes(picture())
    (folder / "masks" / "a").mkdir(parents=True)
    for number in range(3):
        (folder / "masks" / "a" / f"{number}.png").write_bytes(encode_mask(square_mask(number)))
    with (folder / "pairs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, PAPER_COLUMNS)
        writer.writeheader()
        for index, changes in enumerate(rows):
            row = {"index": index, **plain, **changes}
            row["num_sent"] = len(row["doc"])
            writer.writerow({name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()})
    return [folder / name for name in ("pairs.csv", "images", "masks")]


def test_the_doc_rule_chooses_the_expressions_of_a_csv(tmp_path):
    places = write_csv(
        tmp_path, {}, {"seg_id": 1, "doc": [0.1, 0.2, 0.3]}, {"seg_id": 2, "one_mask": 1, "doc": [20.0, 30.0, 10.0]}
    )
    assert [each.sentences for each in targets_of_csv(*places)] == [("y", "z"), ("x", "y")]
    assert [each.sentences for each in targets_of_csv(*places, threshold=1.2)] == [("z",), ("x", "y")]
    unfiltered = targets_of_csv(*places, fallback="unfiltered")
    assert [each.sentences for each in unfiltered] == [("y", "z"), ("x", "y", "z"), ("x", "y")]
    np.testing.assert_array_equal(unfiltered[2].read_mask(), square_mask(2))
    sample = PairsDataset(unfiltered)[2]
    assert sample["mask"].max() == 1


def test_masks_in_shards_are_read_like_files(tmp_path):
    pairs, images, masks = write_csv(tmp_path, {}, {"seg_id": 1}, {"seg_id": 2})
    files = tuple((path.name, path.read_bytes()) for path in sorted((masks / "a").iterdir()))
    shard = masks / META / SHARDS / "000000.parquet"
    write_shard(shard, [Row("a", "a.png", "key", "{}", files)])
    expected = [target.read_mask() for target in targets_of_csv(pairs, images, masks)]
    shutil.rmtree(masks / "a")
    made = targets_of_csv(pairs, images, masks)
    for target, mask in zip([*made, *pickle.loads(pickle.dumps(made))], expected * 2, strict=True):
        np.testing.assert_array_equal(target.read_mask(), mask)
    write_shard(shard, [Row("a", "a.png", "key", "{}", files[:2])])
    with pytest.raises(UserError, match=r"pairs\.csv, index 2, seg_id: .*2\.png"):
        targets_of_csv(pairs, images, masks)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"img_name": "b.png"}, r"index 1, img_name: .*b\.png is missing; give the images that stage 2 had"),
        ({"seg_id": 7}, r"index 1, seg_id: .*7\.png is missing; give stage 1's folder of masks"),
        ({"img_name": "../a.png"}, "index 1, img_name: .*is no path inside a folder"),
        ({"img_id": "../a"}, "index 1, seg_id: .*is no path inside a folder"),
        ({"seg_id": "one"}, "row 3, column seg_id"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_before_training(tmp_path, changes, message):
    places = write_csv(tmp_path, {}, changes)
    with pytest.raises(UserError, match=message) as caught:
        targets_of_csv(*places)
    assert "pairs.csv" in str(caught.value)


def test_a_sample_that_cannot_be_made_is_named(tmp_path):
    places = write_csv(tmp_path, {})
    dataset = PairsDataset(targets_of_csv(*places))
    mask, photo = places[2] / "a" / "0.png", places[1] / "a.png"
    mask.write_bytes(encode_mask(np.ones((5, 6), bool)))
    with pytest.raises(BadInputError, match=r"a\.png, mask a/0\.png: 6x5 pixels, its image has 30x20"):
        dataset[0]
    mask.write_bytes(b"no mask")
    with pytest.raises(BadInputError, match="not a readable image"):
        dataset[0]
    mask.unlink()
    with pytest.raises(BadInputError, match=r"0\.png'?: no such file"):
        dataset[0]
    photo.write_bytes(b"no image")
    with pytest.raises(BadInputError, match=r"a\.png.*not a readable image"):
        dataset[0]


def test_no_expression_at_all_is_an_error():
    with pytest.raises(UserError, match="no mask has an expression to train on"):
        PairsDataset([])
