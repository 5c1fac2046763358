"""The evaluation recipe: a checkpoint on the splits of a data set on disk."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from demo_checkpoint import write_demo_checkpoint
from plain_models import block, given, painted, png

from pseudo_ris.errors import UserError
from pseudo_ris.formats.refer_set import write_refer
from pseudo_ris.pairs.pair_set import PairImage, PairObject, Rle
from pseudo_ris.ris.config import DataConfig, EvaluateConfig
from pseudo_ris.ris.data.splits import KINDS, split_targets
from pseudo_ris.ris.evaluation.metrics import Overlap, Scores
from pseudo_ris.ris.evaluation.scores import Results, tally
from pseudo_ris.ris.evaluation.split_results import chosen_splits, data_settings, evaluate_split, table
from pseudo_ris.ris.models.checkpoints import load_model
from train_ris.evaluate import main

SPLITS = {"train": (1,), "val": (2, 3), "testA": (4,)}


def make_set(root: Path, dataset: str = "drawn") -> DataConfig:
    """A REFER set of pictures with a red and a green block; two sentences each, the first of which has a kind."""

    def ref(number: int, place: int, mask: np.ndarray) -> PairObject:
        ref_id = 10 * number + place
        sentences = ("a red ball", "the left one") if place == 0 else ("a green ball", "the right one")
        return PairObject(ref_id, ref_id, ref_id, Rle.of(mask), sentences, (100 * ref_id, 100 * ref_id + 1))

    images = []
    for split, numbers in SPLITS.items():
        for number in numbers:
            masks = block(50, 70, slice(5, 30), slice(number, 30)), block(50, 70, slice(20, 45), slice(40, 70 - number))
            refs = tuple(ref(number, place, mask) for place, mask in enumerate(masks))
            read = partial(given, png(painted(*masks)))
            images.append(PairImage(str(number), f"COCO_train2014_{number:012d}.jpg", 50, 70, split, refs, read))
    write_refer(root, images, dataset, copy_images=True)
    kinds = {str(100 * each.ref_id): ["attribute"] for image in images for each in image.objects}
    (root / dataset / KINDS).write_text(json.dumps(kinds))
    return DataConfig(dataset=dataset, refer_root=str(root), images=str(root / "images"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[str, DataConfig]:
    """A checkpoint and the data it is said to be trained on."""
    root = tmp_path_factory.mktemp("trained")
    data = make_set(root / "refer")
    return str(write_demo_checkpoint(root / "best.pt", data)), data


def expected(checkpoint: str, data: DataConfig, split: str) -> Results:
    model, _ = load_model(Path(checkpoint), torch.device("cpu"))
    targets = split_targets(data, split)
    return Results.of(tally(model, targets, batch_size=3, precision="fp32", device=torch.device("cpu")))


def test_all_splits_but_train_are_evaluated_and_the_last_line_has_everything(trained, capsys):
    checkpoint, data = trained
    assert main(["--checkpoint", checkpoint, "--workers", "0", "--batch_size", "3"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert json.loads(last) == {
        "checkpoint": checkpoint,
        "dataset": "drawn",
        "splits": {split: expected(checkpoint, data, split).named for split in ("val", "testA")},
    }
    assert json.loads(last)["splits"]["val"]["original"]["count"] == 8
    assert json.loads(last)["splits"]["val"]["by_tag"]["attribute"]["model_size"]["count"] == 4
    assert lines[0] == f"model: clip demo, 64 pixels, from {checkpoint}"
    assert "val (8 expressions)" in lines and "testA (4 expressions)" in lines


def test_a_table_names_its_figures_in_percent():
    both = Scores.of([Overlap(3, 4), Overlap(1, 4)])
    one = Scores.of([Overlap(3, 4)])
    lines = list(table("val", Results(both, one, {"2 look-alikes": Results(one, both, {})})))
    assert lines == [
        "\nval (2 expressions)",
        "at model size        oIoU    mIoU   P@0.5   P@0.6   P@0.7   P@0.8   P@0.9   count",
        "  all               50.00   50.00   50.00   50.00   50.00    0.00    0.00       2",
        "  2 look-alikes     75.00   75.00  100.00  100.00  100.00    0.00    0.00       1",
        "at original size     oIoU    mIoU   P@0.5   P@0.6   P@0.7   P@0.8   P@0.9   count",
        "  all               75.00   75.00  100.00  100.00  100.00    0.00    0.00       1",
        "  2 look-alikes     50.00   50.00   50.00   50.00   50.00    0.00    0.00       2",
    ]


def test_splits_asked_for_are_evaluated_alone_with_predictions(trained, capsys, tmp_path):
    checkpoint, _ = trained
    assert (
        main(["--checkpoint", checkpoint, "--workers", "0", "--splits", "[train,testA]", "--predictions", str(tmp_path / "p")])
        == 0
    )
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])["splits"]
    assert list(figures) == ["train", "testA"]
    for split in figures:
        entries = json.loads((tmp_path / "p" / split / "predictions.json").read_text())
        assert len(entries) == len(list((tmp_path / "p" / split).glob("*.png"))) == 4
        assert figures[split]["original"]["mIoU"] == pytest.approx(np.mean([entry["iou"] for entry in entries]))


def test_another_data_set_is_evaluated_with_the_models_own_words(trained, capsys, tmp_path):
    checkpoint, _ = trained
    other = make_set(tmp_path / "refer", "refcocog")
    arguments = ["--dataset", "refcocog", "--split_by", "unc", "--refer_root", other.refer_root, "--images", other.images]
    assert main(["--checkpoint", checkpoint, "--workers", "0", *arguments, "--splits", "[val]"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["dataset"] == "refcocog"
    assert list(found["splits"]) == ["val"]
    assert found["splits"]["val"]["original"]["count"] == 8


def test_settings_not_given_are_those_of_the_training():
    trained = DataConfig(dataset="refcoco", split_by="unc", refer_root="sets", images="pictures", pairs="x.csv")
    assert data_settings(EvaluateConfig(), trained) == trained
    other = data_settings(EvaluateConfig(dataset="refcocog", images="others"), trained)
    assert (other.dataset, other.split_by, other.refer_root, other.images) == ("refcocog", "", "sets", "others")
    assert data_settings(EvaluateConfig(dataset="refcocog", split_by="google"), trained).split_by == "google"
    assert data_settings(EvaluateConfig(split_by="umd"), trained).split_by == "umd"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "nowhere.pt"], "nowhere.pt: there is no such checkpoint"),
        (["--splits", "[val,valid]"], "split valid: drawn in .* has no such split; it has train, val, testA"),
        (["--dataset", "drwan"], "did you mean drawn"),
        (["--images", "nowhere"], "nowhere"),
        (["--checkpont", "x"], "did you mean checkpoint"),
        (["--precision", "fp8"], "precision: expected"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(trained, capsys, arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        main(["--checkpoint", trained[0], *arguments])
    assert "\n" not in str(caught.value)
    assert "expressions)" not in capsys.readouterr().out  # known before the first split is predicted


def test_a_model_of_pairs_alone_needs_a_data_set():
    with pytest.raises(UserError, match="--dataset: no training names a data set"):
        data_settings(EvaluateConfig(), DataConfig(pairs="x.csv"))


def test_a_set_with_nothing_but_train_is_not_evaluated_unasked(tmp_path):
    root = tmp_path / "refer"
    masks = block(50, 70, slice(5, 30), slice(5, 30))
    ref = PairObject(1, 1, 1, Rle.of(masks), ("a ball",), (1,))
    write_refer(root, [PairImage("1", "1.jpg", 50, 70, "train", (ref,), partial(given, png(painted(masks))))], "drawn")
    data = DataConfig(dataset="drawn", refer_root=str(root))
    with pytest.raises(UserError, match="has no split but train"):
        chosen_splits(EvaluateConfig(), data)
    assert chosen_splits(EvaluateConfig(splits=("train",)), data) == ["train"]


def test_a_split_whose_name_leads_elsewhere_has_no_predictions(tmp_path):
    with pytest.raises(UserError, match="is no path inside a folder; evaluate without --predictions"):
        evaluate_split(lambda targets, note: [], "../val", [], str(tmp_path))
    assert not any(tmp_path.iterdir())
