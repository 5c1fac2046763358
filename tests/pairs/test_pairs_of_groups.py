"""Expressions of several masks and of none in a set of pairs, and in gRefCOCO files written from stage 2's CSV."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from pairs_csv import png, square

from pseudo_ris.cli.export import main
from pseudo_ris.errors import UserError
from pseudo_ris.formats.grefcoco import read_grefcoco
from pseudo_ris.io.mask_png import encode_mask
from pseudo_ris.pairs.groups import NEEDED, read_groups

COLUMNS = (
    *("index", "img_name", "img_id", "seg_id", "num_sent", "pseudo_caption", "doc", "one_mask"),
    *("noun", "recognition", "strategy"),
)
TEXTS = {0: "red cup", 3: "red cup", 5: "blue cup", 6: "red box"}


@pytest.fixture
def stage_2(tmp_path) -> list[str]:
    """An image of four masks, all.csv with three candidates of each, selected.csv with one; the options of an export."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(png(0))
    (tmp_path / "masks" / "a").mkdir(parents=True)
    for seg_id in TEXTS:
        (tmp_path / "masks" / "a" / f"{seg_id}.png").write_bytes(encode_mask(square(3 * seg_id)))
    for name, number in (("all", 3), ("selected", 1)):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for index, (seg_id, text) in enumerate(TEXTS.items()):
                texts = [f"{article} {text}" for article in ("the", "a", "the small")[:number]] + ["the leftmost plum"]
                nouns = [text.split()[-1]] * number + ["plum"]
                strategies = ["beam"] * number + ["place"]
                cells = [texts, [2.0] * len(texts), nouns, [1.0] * len(texts), strategies]
                texts, doc, nouns, recognition, strategies = map(json.dumps, cells)
                writer.writerow([index, "a.png", "a", seg_id, number + 1, texts, doc, 0, nouns, recognition, strategies])
    options = {"--pairs": "selected.csv", "--images": "photos", "--masks": "masks", "--groups": "all.csv"}
    return [word for name, place in options.items() for word in (name, str(tmp_path / place))]


def test_an_export_to_grefcoco_names_all_targets_and_reads_back(tmp_path, stage_2):
    assert main(["--to", "grefcoco", str(tmp_path / "out"), *stage_2]) == 0
    (image,) = read_grefcoco(tmp_path / "out", tmp_path / "photos")
    single = {each.object_id: each for each in image.objects if not each.targets and each.mask.decode().any()}
    assert [each.seg_id for each in single.values()] == list(TEXTS)
    groups = {each.sentences: each for each in image.objects if each.object_id not in single}
    assert {sentences: each.targets for sentences, each in groups.items()} == {
        ("the three cups", "the three small cups"): (0, 1, 2),
        ("the two red cups",): (0, 1),
        ("the blue box",): (),
    }
    for each in groups.values():
        wanted = np.zeros((image.height, image.width), bool)
        for target in each.targets:
            wanted |= single[target].mask.decode()
        np.testing.assert_array_equal(each.mask.decode(), wanted)
    refs = json.loads(next((tmp_path / "out").rglob("grefs(unc).json")).read_text())
    assert [ref["ann_id"] for ref in refs] == [[0], [1], [2], [3], [0, 1, 2], [0, 1], [-1]]
    assert [ref.get("no_target", False) for ref in refs] == [False] * 6 + [True]
    annotations = json.loads(next((tmp_path / "out").rglob("instances.json")).read_text())["annotations"]
    assert [each["id"] for each in annotations] == [0, 1, 2, 3], "a union of annotations is none itself"


def test_a_group_of_which_a_mask_was_not_selected_is_left_out(tmp_path, stage_2):
    lines = (tmp_path / "selected.csv").read_text().splitlines(keepends=True)
    (tmp_path / "selected.csv").write_text("".join(line for line in lines if ",a,5," not in line))
    assert main(["--to", "grefcoco", str(tmp_path / "out"), *stage_2]) == 0
    (image,) = read_grefcoco(tmp_path / "out", tmp_path / "photos")
    assert {each.sentences for each in image.objects if each.targets} == {("the two red cups",)}


def test_other_formats_refuse_groups(tmp_path, stage_2):
    with pytest.raises(UserError, match="--groups: coco holds expressions of one mask only; use --to grefcoco"):
        main(["--to", "coco", str(tmp_path / "out"), *stage_2])


@pytest.mark.parametrize("column", NEEDED)
def test_a_csv_without_nouns_is_refused(tmp_path, stage_2, column):
    text = (tmp_path / "all.csv").read_text().replace(f",{column}", f",{column}_", 1)
    (tmp_path / "all.csv").write_text(text)
    with pytest.raises(UserError, match=f"all.csv: no column {column}; run stage 2 again"):
        read_groups(tmp_path / "all.csv")
