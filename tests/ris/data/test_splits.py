"""What stage 3 learns from, by its settings: REFER sets on disk, their mix, shares of them, pseudo pairs beside them."""

from __future__ import annotations

import json
import pickle
import shutil
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from pairs_csv import HEIGHT, WIDTH, png, square, write_pairs

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.formats.refer_set import read_refer, write_refer
from pseudo_ris.pairs.pair_set import PairImage, PairObject, Rle
from pseudo_ris.ris.config import DataConfig
from pseudo_ris.ris.data.splits import split_targets, splits_of, training_targets
from pseudo_ris.ris.data.targets import targets_of_images

GOLDEN = Path(__file__).parents[2] / "formats" / "golden" / "refcoco"


def name_of(number: int) -> str:
    return f"COCO_train2014_{number:012d}.jpg"


def make_set(root: Path, dataset: str, splits: dict[str, tuple[int, ...]], split_by: str = "unc") -> DataConfig:
    """A REFER set with these images in its splits, two refs each, and the images beside it; the settings that read it.

    An image's annotations are the same in all sets, so that those of one folder may share instances.json.
    """
    ids = iter(range(1, 10**6))

    def ref(number: int, split: str, left: int) -> PairObject:
        ref_id, first, second = (next(ids) for _ in range(3))
        sentences = f"{dataset} {split} {number} at {left}", "another"
        ann_id = 100 * number + left
        return PairObject(ref_id, ann_id, ann_id, Rle.of(square(left)), sentences, (first, second))

    images = [
        PairImage(str(n), name_of(n), HEIGHT, WIDTH, split, (ref(n, split, 0), ref(n, split, 9)), partial(png, n))
        for split, numbers in splits.items()
        for n in numbers
    ]
    write_refer(root / "new", images, dataset, copy_images=True)
    (root / dataset).mkdir(exist_ok=True)
    for path in (root / "new" / dataset).iterdir():
        path.rename(root / dataset / path.name.replace("(unc)", f"({split_by})"))
    shutil.copytree(root / "new" / "images", root / "images", dirs_exist_ok=True)
    shutil.rmtree(root / "new")
    return DataConfig(dataset=dataset, refer_root=str(root), images=str(root / "images"))


def images_in(targets) -> set[int]:
    return {int(target.name.split(".")[0].rsplit("_", 1)[1]) for target in targets}


def changed(config: DataConfig, **changes) -> DataConfig:
    return DataConfig(**{**vars(config), **changes})


def test_a_set_gives_its_training_refs_with_image_mask_and_sentences(tmp_path):
    config = make_set(tmp_path, "refcoco", {"train": (1, 2), "val": (3,), "testA": (4,), "testB": (4, 5)})
    targets = training_targets(config, seed=0)
    assert [target.sentences[0] for target in targets] == [f"refcoco train {n} at {left}" for n in (1, 2) for left in (0, 9)]
    for target, (number, left) in zip(targets, ((1, 0), (1, 9), (2, 0), (2, 9)), strict=True):
        assert target.read_image() == png(number)
        np.testing.assert_array_equal(target.read_mask(), square(left))
        assert target.tags == ()
    assert targets[0].name == f"{name_of(1)}, ref 1"


def test_targets_go_to_other_processes(tmp_path):
    target = pickle.loads(pickle.dumps(training_targets(make_set(tmp_path, "some", {"train": (1,)}), seed=0)))[1]
    assert target.read_image() == png(1)
    np.testing.assert_array_equal(target.read_mask(), square(9))


def test_splits_are_named_and_read_one_by_one(tmp_path):
    config = make_set(tmp_path, "refcoco", {"testB": (4, 5), "odd": (6,), "train": (1,), "val": (3,), "testA": (4,)})
    assert splits_of(config) == ["train", "val", "testA", "testB", "odd"]
    assert {split: images_in(split_targets(config, split)) for split in splits_of(config)} == {
        "train": {1},
        "val": {3},
        "testA": {4},
        "testB": {4, 5},
        "odd": {6},
    }


def test_polygons_and_numbered_names_are_read_as_the_exchange_formats_read_them(tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "refcoco")
    (tmp_path / "images").mkdir()
    for image in read_refer(GOLDEN):
        (tmp_path / "images" / image.name).write_bytes(png(int(image.image_id)))
    config = DataConfig(dataset="refcoco", refer_root=str(tmp_path), images=str(tmp_path / "images"))
    found = [target for split in splits_of(config) for target in split_targets(config, split)]
    expected = targets_of_images(read_refer(tmp_path / "refcoco", tmp_path / "images"))
    assert len(found) == 3
    for one, other in zip(found, expected, strict=True):
        assert (one.sentences, one.read_image()) == (other.sentences, other.read_image())
        np.testing.assert_array_equal(one.read_mask(), other.read_mask())


@pytest.mark.parametrize(("split_by", "images"), [("", {1, 2}), ("umd", {1, 2}), ("google", {1, 3})])
def test_refcocog_is_the_umd_annotation_unless_google_is_asked_for(tmp_path, split_by, images):
    config = make_set(tmp_path, "refcocog", {"train": (1, 3), "val": (2,)}, "google")
    make_set(tmp_path, "refcocog", {"train": (1, 2), "val": (3,), "test": (4,)}, "umd")
    assert images_in(training_targets(changed(config, split_by=split_by), seed=0)) == images


def test_any_folder_is_a_set_whatever_its_only_annotation_is_called(tmp_path):
    config = make_set(tmp_path, "mine", {"train": (1,)}, "nobody")
    assert images_in(training_targets(config, seed=0)) == {1}
    assert images_in(training_targets(changed(config, split_by="nobody"), seed=0)) == {1}


def test_images_may_lie_in_folders_below(tmp_path):
    config = make_set(tmp_path, "some", {"train": (1,)})
    (tmp_path / "images" / "train2014").mkdir()
    (tmp_path / "images" / name_of(1)).rename(tmp_path / "images" / "train2014" / name_of(1))
    assert training_targets(config, seed=0)[0].read_image() == png(1)


def test_sentences_have_the_groups_that_the_set_notes(tmp_path):
    config = make_set(tmp_path, "drawn", {"train": (1,)})
    first, second = (ref["sent_ids"] for ref in pickle.loads((tmp_path / "drawn" / "refs(unc).p").read_bytes()))
    kinds = {first[0]: ["position", "2 look-alikes"], first[1]: ["attribute"], second[0]: []}
    (tmp_path / "drawn" / "kinds.json").write_text(json.dumps(kinds))
    tags = [target.tags for target in training_targets(config, seed=0)]
    assert tags == [(("position", "2 look-alikes"), ("attribute",)), ((), ())]


def make_members(root: Path) -> DataConfig:
    """Image 2 is held out by another member, 8 by the own one."""
    make_set(root, "refcoco", {"train": (1, 2), "val": (5,), "testA": (6,), "testB": (7,)})
    make_set(root, "refcoco+", {"train": (1, 3), "val": (5,), "testA": (2,)})
    make_set(root, "refcocog", {"train": (9,), "val": (9,)}, "google")
    config = make_set(root, "refcocog", {"train": (3, 4, 6, 8), "val": (8,), "test": (10,)}, "umd")
    return changed(config, dataset="refcocom")


@pytest.mark.parametrize("split_by", ["", "mix"])
def test_refcocom_joins_training_refs_but_for_images_held_out_anywhere(tmp_path, capsys, split_by):
    config = changed(make_members(tmp_path), split_by=split_by)
    first = [target.sentences[0] for target in training_targets(config, seed=0)]
    assert first == [
        f"{dataset} train {number} at {left}"
        for dataset, numbers in (("refcoco", (1,)), ("refcoco+", (1, 3)), ("refcocog", (3, 4)))
        for number in numbers
        for left in (0, 9)
    ]
    assert capsys.readouterr().out == ("refcocom: 3 training images are left out, val or test splits of its sets have them\n")


def test_refcocom_has_the_other_splits_of_its_sets_and_all_of_a_name(tmp_path):
    config = make_members(tmp_path)
    held_out = ["refcoco/val", "refcoco/testA", "refcoco/testB", "refcoco+/val", "refcoco+/testA"]
    assert splits_of(config) == ["train", *held_out, "refcocog/val", "refcocog/test"]
    assert images_in(split_targets(config, "refcoco+/testA")) == {2}
    assert images_in(split_targets(config, "train")) == {1, 3, 4}
    assert [target.sentences[0] for target in split_targets(config, "val")] == [
        f"{dataset} val {number} at {left}"
        for dataset, number in (("refcoco", 5), ("refcoco+", 5), ("refcocog", 8))
        for left in (0, 9)
    ]
    with pytest.raises(UserError, match=r"split nowhere: refcocom .* it has train, refcoco/val, .*, refcocog/test$"):
        split_targets(config, "nowhere")


def test_a_folder_refcocom_is_a_set_like_any_other(tmp_path):
    make_members(tmp_path)
    config = make_set(tmp_path, "refcocom", {"train": (2, 11)}, "mix")
    assert images_in(training_targets(config, seed=0)) == {2, 11}


def test_a_fraction_is_of_the_images_and_lies_within_larger_ones(tmp_path):
    config = make_set(tmp_path, "some", {"train": tuple(range(1, 21)), "val": (30,)})
    shares = {share: training_targets(changed(config, fraction=share), seed=3) for share in (0.01, 0.1, 0.3, 0.55, 1.0)}
    assert [len(images_in(targets)) for targets in shares.values()] == [1, 2, 6, 11, 20]
    assert all(len(targets) == 2 * len(images_in(targets)) for targets in shares.values())
    drawn = [images_in(targets) for targets in shares.values()]
    assert all(smaller < larger for smaller, larger in pairwise(drawn))
    again = training_targets(changed(config, fraction=0.3), seed=3)
    assert [target.name for target in again] == [target.name for target in shares[0.3]]
    others = [images_in(training_targets(changed(config, fraction=0.3), seed=seed)) for seed in range(4, 9)]
    assert any(images != drawn[2] for images in others)


def test_pairs_alone_follow_the_threshold_and_the_fallback(tmp_path):
    places = write_pairs(tmp_path, [0.5, 1.1, 1.5], [0.1, 0.2])
    assert [t.sentences for t in training_targets(DataConfig(**places), seed=0)] == [("thing 2",)]
    assert [t.sentences for t in training_targets(DataConfig(**places, threshold=1.0), seed=0)] == [("thing 1", "thing 2")]
    unfiltered = training_targets(DataConfig(**places, fallback="unfiltered"), seed=0)
    assert [t.sentences for t in unfiltered] == [("thing 2",), ("thing 0", "thing 1")]
    np.testing.assert_array_equal(unfiltered[1].read_mask(), square(1))


def test_a_mixture_is_the_share_of_ground_truth_and_then_all_pairs(tmp_path):
    config = make_set(tmp_path, "some", {"train": (1, 2, 3, 4), "val": (5,)})
    places = write_pairs(tmp_path / "pseudo", [1.5], [2.0])
    share = training_targets(changed(config, fraction=0.5), seed=1)
    mixed = training_targets(changed(config, fraction=0.5, **places), seed=1)
    assert len(share) == 4 and len(mixed) == 6
    assert [target.name for target in mixed[:4]] == [target.name for target in share]
    assert [target.name for target in mixed[4:]] == ["a.png, mask a/0.png", "a.png, mask a/1.png"]
    assert images_in(split_targets(changed(config, fraction=0.5, **places), "val")) == {5}


def test_without_ground_truth_a_set_only_validates_and_needs_no_training_split(tmp_path):
    config = make_set(tmp_path, "some", {"val": (5,)})
    places = write_pairs(tmp_path / "pseudo", [1.5], [2.0])
    pairs_alone = changed(config, fraction=0.0, **places)
    assert [target.name for target in training_targets(pairs_alone, seed=1)] == ["a.png, mask a/0.png", "a.png, mask a/1.png"]
    assert images_in(split_targets(pairs_alone, "val")) == {5}
    refused(changed(config, fraction=0.0), "fraction: 0 takes no ground truth, and there are no pairs; give a CSV of stage 2")


def test_targets_know_their_image(tmp_path):
    config = changed(make_set(tmp_path, "some", {"train": (1,)}), **write_pairs(tmp_path / "pseudo", [1.5]))
    assert [target.image for target in training_targets(config, seed=0)] == [name_of(1), name_of(1), "a.png"]


def refused(config: DataConfig, message: str, split: str = "") -> None:
    with pytest.raises(UserError, match=message) as caught:
        split_targets(config, split) if split else training_targets(config, seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "refcocoo"}, r"dataset refcocoo: no such data set; did you mean refcoco\? \(.* holds mine, refcocog\)"),
        ({"dataset": "mime"}, r"did you mean mine\?"),
        ({"dataset": "refcoco+"}, r"refcoco\+: no data set there; put its refs\(unc\)\.p and instances\.json there"),
        ({"dataset": "refcocom"}, r"refcoco: no data set there"),
        ({"dataset": "refcocom", "split_by": "umd"}, r"split_by umd: refcocom is the mix of refcoco \(unc\), .*; leave it out"),
        ({"dataset": "mine", "split_by": "umd"}, r"split_by 'umd': .*mine has the annotations one, two; name one of them"),
        ({"dataset": "mine"}, r"split_by '': .*mine has the annotations one, two; name one of them"),
        ({"refer_root": "/nowhere"}, "refer_root /nowhere: no such folder; give the one that holds the folder refcocog"),
        ({"images": "/nowhere"}, "data set refcocog: --images /nowhere: no such folder"),
        ({"dataset": ""}, "dataset, pairs: neither is given; name a data set of refer_root, a CSV of stage 2, or both"),
        ({"pairs": "/nowhere.csv"}, r"/nowhere\.csv: cannot be read"),
    ],
)
def test_settings_that_lead_nowhere_are_refused_in_one_line(tmp_path, changes, message):
    make_set(tmp_path, "mine", {"train": (1,)}, "one")
    make_set(tmp_path, "mine", {"train": (1,)}, "two")
    refused(changed(make_set(tmp_path, "refcocog", {"train": (1,), "val": (2,)}, "umd"), **changes), message)


def test_a_missing_split_is_refused_with_those_there_are(tmp_path):
    config = make_set(tmp_path, "some", {"val": (1,), "test": (2,)})
    refused(config, "split train: some in .* has no such split; it has val, test$")
    refused(config, "split testA: some in .* has no such split; it has val, test$", split="testA")
    refused(changed(config, dataset="", pairs="x.csv"), "split val: no data set is given to take it from", split="val")


def test_missing_images_are_counted_before_anything_is_trained(tmp_path):
    config = make_set(tmp_path, "some", {"train": (1, 2, 3), "val": (4,)})
    for number in (2, 3):
        (tmp_path / "images" / name_of(number)).unlink()
    refused(config, f"data set some: --images .*images: 2 of 3 listed images are missing; first: '{name_of(2)}'")
    assert len(split_targets(config, "val")) == 2


def test_a_csv_without_pairs_and_one_of_which_none_passes_are_told_apart(tmp_path):
    refused(DataConfig(**write_pairs(tmp_path / "a")), r"pairs .*pairs\.csv: holds no pair; run both stages")
    low = write_pairs(tmp_path / "b", [0.5, 1.2], [0.1])
    refused(DataConfig(**low), r"pairs .*pairs\.csv: no expression has a DoC over 1\.2; lower threshold")
    Path(low["pairs"]).write_bytes(b"")
    refused(DataConfig(**low), r"pairs\.csv: no column index")


def edit(path: Path, change) -> None:
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["annotations"].pop(0), "ref 0: .*has no annotation 100 of image 1"),
        (lambda content: content["images"].pop(0), "ref 0: .*has no image 1 with height and width; get the set again"),
        (lambda content: content["images"][0].pop("width"), "ref 0: .*has no image 1 with height and width"),
        (lambda content: content.pop("images"), r"instances\.json: has no list images"),
    ],
)
def test_a_set_that_does_not_hang_together_is_refused(tmp_path, change, message):
    config = make_set(tmp_path, "some", {"train": (1,)})
    edit(tmp_path / "some" / "instances.json", change)
    refused(config, message)


def test_a_set_without_its_annotations_is_refused(tmp_path):
    config = make_set(tmp_path, "some", {"train": (1,)})
    (tmp_path / "some" / "instances.json").unlink()
    refused(config, r"some/instances\.json: No such file or directory")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", r"kinds\.json: holds no groups by sentence"),
        ('{"7": "position"}', r"kinds\.json, sentence 7: is no list of names of groups; .*the file"),
        ("{", r"kinds\.json: not JSON"),
    ],
)
def test_a_damaged_list_of_groups_is_refused(tmp_path, content, message):
    config = make_set(tmp_path, "some", {"train": (1,)})
    (tmp_path / "some" / "kinds.json").write_text(content)
    refused(config, message)


def test_a_damaged_mask_is_named_when_it_is_read(tmp_path):
    config = make_set(tmp_path, "some", {"train": (1,)})
    edit(tmp_path / "some" / "instances.json", lambda content: content["annotations"][0].update(segmentation=[[1, 2]]))
    first, second = training_targets(config, seed=0)
    with pytest.raises(BadInputError, match=rf"{name_of(1)}, ref 1: a polygon needs three or more points"):
        first.read_mask()
    assert second.read_mask().any()
    other = make_set(tmp_path, "other", {"train": (1,)})
    edit(tmp_path / "other" / "instances.json", lambda content: content["images"][0].update(height=10**9))
    with pytest.raises(BadInputError, match=rf"{name_of(1)}, ref 1: height, width: 30x1000000000 pixels"):
        training_targets(other, seed=0)[0].read_mask()
