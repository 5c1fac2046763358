"""The picture of the pairs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pseudo_ris.cli.contact_sheet import main
from pseudo_ris.config import ScoringConfig
from pseudo_ris.errors import UserError
from pseudo_ris.pairs.assembly import write_pairs
from pseudo_ris.records import CaptionRecord, ImageRecord, MaskCaptions, MaskRecord
from pseudo_ris.storage.caption_parts import PartStore
from pseudo_ris.storage.mask_store import MaskStore
from pseudo_ris.visual.contact_sheet import TILE, Entry, best_expression, draw_tile
from pseudo_ris.visual.drawing import COLOURS, LINE, PADDING


def block(x0: int, x1: int) -> np.ndarray:
    mask = np.zeros((60, 90), bool)
    mask[20:40, x0:x1] = True
    return mask


def test_best_is_the_first_of_the_highest():
    assert best_expression({"pseudo_caption": ["a", "b", "c"], "doc": [1.0, 2.0, 2.0]}) == ("b", 2.0)


def test_outline_and_legend_share_a_colour():
    image = np.full((60, 90, 3), 120, np.uint8)
    tile = np.asarray(
        draw_tile("a.png", image, [Entry(block(10, 30), "left", 2.0, True), Entry(block(50, 80), "right", 2.0, True)], 2)
    )
    assert tile.shape[1] == TILE
    picture, legend = tile[:TILE].reshape(-1, 3), tile[TILE:].reshape(-1, 3)
    for colour in COLOURS[:2]:
        assert (picture == colour).all(1).any()
        assert (np.abs(legend.astype(int) - colour).max(1) < 12).any()
    assert not (picture == COLOURS[2]).all(1).any()


@pytest.mark.parametrize("text", ["x" * 300, "", "ein Bällchen"])
def test_any_text_fits_its_tile(text):
    image = np.full((90, 60, 3), 120, np.uint8)
    assert draw_tile("a.png", image, [Entry(block(10, 30)[:, :60].repeat(2, 0)[:90], text, 1.0, False)] * 12, 3).size[0] == TILE


def test_a_tile_begins_with_the_images_name():
    """The end of a long path, which tells the images of a folder apart."""
    image, split = np.full((60, 90, 3), 120, np.uint8), TILE + PADDING // 2 + LINE

    def parts(name: str) -> tuple[bytes, bytes]:
        tile = np.asarray(draw_tile(name, image, [], 1))
        return tile[TILE:split].tobytes(), tile[split:].tobytes()

    assert parts("a.png")[0] != parts("b.png")[0]
    assert parts("a.png")[1] == parts("b.png")[1]
    assert parts("x" * 200 + "a.png")[0] != parts("x" * 200 + "b.png")[0]
    assert parts("folder/" + "x" * 200 + "a.png") == parts("x" * 200 + "a.png")


class Set:
    """Three images: a, whose id an annotation file gave, has a mask and a row; b none; c was not worked on."""

    def __init__(self, folder: Path) -> None:
        self.images, self.masks, output = folder / "images", folder / "masks", folder / "pairs"
        self.csv, self.sheet = output / "pairs.csv", folder / "sheet.png"
        self.images.mkdir()
        store, parts = MaskStore(self.masks), PartStore(output, "pairs")
        store.prepare()
        parts.prepare()
        ids = {"a": "7", "b": "b", "c": "c"}
        records = [ImageRecord(ids[name], f"{name}.png", (self.images / f"{name}.png").read_bytes) for name in ids]
        for record in records:
            Image.new("RGB", (90, 60), "gray").save(self.images / record.name)
        store.write(records[0], "k", [MaskRecord(0, block(10, 30), (10, 20, 30, 40), 0.9, "sam")], 60, 90)
        store.write(records[1], "k", [], 60, 90)
        caption = CaptionRecord("a ball", "masked", "beam", "ball", 1.0, 1.0, 1.0, 1.0, 1.0, None)
        parts.write(records[0], "k", [MaskCaptions(0, True, (caption,))])
        parts.write(records[1], "k", [])
        write_pairs(parts.read_all(records), output, "pairs", ScoringConfig(threshold=1.0))

    def change(self, old: str, new: str) -> None:
        """Changes the CSV."""
        text = self.csv.read_text()
        assert old in text
        self.csv.write_text(text.replace(old, new))

    def run(self, *options: str) -> int:
        places = {"images": self.images, "masks": self.masks, "pairs": self.csv, "sheet": self.sheet}
        return main([*(f"--{name}={place}" for name, place in places.items()), *options])


@pytest.fixture
def small(tmp_path) -> Set:
    return Set(tmp_path)


def test_sheet_shows_images_with_and_without_masks(small):
    (small.sheet.parent / ".sheet.png.0123abcd.tmp").touch()
    assert small.run("--threshold", "1") == 0
    with Image.open(small.sheet) as sheet:
        assert sheet.width > 2 * TILE
        assert sheet.width < 3 * TILE
    assert small.sheet.stat().st_size > 1000
    assert not list(small.sheet.parent.glob(".*")), "what a killed run left is removed"


def test_a_row_without_an_expression_and_a_text_of_two_lines(small):
    small.change("a ball", "a\\nball")
    assert small.run() == 0
    lines = small.csv.read_text().splitlines()
    small.csv.write_text(f"{lines[0]}\n0,a.png,7,0,0,[],[],1" + ",[]" * (lines[0].count(",") - 7) + "\n")
    assert small.run() == 0


def cut_mask(small: Set) -> None:
    path = small.masks / "7" / "0.png"
    path.write_bytes(path.read_bytes()[:60])


def empty_mask(small: Set) -> None:
    (small.masks / "7" / "0.png").write_bytes(b"")


def blank_mask(small: Set) -> None:
    Image.new("L", (90, 60)).save(small.masks / "7" / "0.png")


def mask_by_a_link(small: Set) -> None:
    path = small.masks / "7" / "0.png"
    path.rename(small.sheet.parent / "0.png")
    path.symlink_to(small.sheet.parent / "0.png")


def other_images(small: Set) -> None:
    for name in "abc":
        (small.images / f"{name}.png").rename(small.images / f"other_{name}.png")


def other_sizes(small: Set) -> None:
    Image.new("RGB", (30, 60)).save(small.images / "a.png")


def cut_image(small: Set) -> None:
    (small.images / "a.png").write_bytes((small.images / "a.png").read_bytes()[:60])


def id_that_leads_elsewhere(image_id: str) -> Callable[[Set], None]:
    def change(small: Set) -> None:
        shutil.copytree(small.masks / "7", small.sheet.parent / "x")
        small.change(",7,", f",{image_id.format(folder=small.sheet.parent)},")

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_mask, "image 'a.png': '7/0.png': mask: not a readable image"),
        (empty_mask, "image 'a.png': 0.png: is empty"),
        (blank_mask, "image 'a.png': '7/0.png': is blank"),
        (mask_by_a_link, "image 'a.png': '7/0.png': leads out of"),
        (other_images, "give the folder that stage 2 was run with"),
        (other_sizes, "image 'a.png': '7/0.png': 90x60 pixels, but the image has 30x60"),
        (cut_image, "image 'a.png': a.png: "),
        (id_that_leads_elsewhere("../x"), "image 'a.png': img_id: '../x' is not a valid folder name"),
        (id_that_leads_elsewhere(".."), "image 'a.png': img_id: '..' is not a valid folder name"),
        (id_that_leads_elsewhere("{folder}/x"), "image 'a.png': img_id: "),
        (lambda small: small.change(",7,0,", ",7,9,"), "image 'a.png': '7/9.png': no such file"),
        (lambda small: small.sheet.mkdir(), "--sheet .*sheet.png: is a folder; give the name of a file"),
        (lambda small: small.change("index", "number"), "no column index"),
    ],
)
def test_what_does_not_fit_is_one_line(small, damage, message):
    damage(small)
    with pytest.raises(UserError, match=message) as caught:
        small.run()
    assert "\n" not in str(caught.value)
    assert not small.sheet.is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--count", "0"], "--count 0: must be 1 or more"),
        (["--count=-3"], "--count -3: must be 1 or more"),
        (["--sheet", "sheet.xyz"], "--sheet sheet.xyz: must end in .png"),
        (["--sheet", "sheet"], "--sheet sheet: must end in .png"),
        (["--masks", "nowhere"], "--masks nowhere: no such folder"),
        (["--images", "nowhere"], "--images nowhere: no such folder"),
    ],
)
def test_options_that_do_not_fit_are_one_line(small, options, message):
    with pytest.raises(UserError, match=message):
        small.run(*options)


def test_a_folder_of_other_masks_is_one_line(small):
    small.csv.write_text(small.csv.read_text().splitlines()[0] + "\n")
    shutil.rmtree(small.masks)
    small.masks.mkdir()
    with pytest.raises(UserError, match=f"--masks {small.masks}: contains no masks of the images"):
        small.run()
