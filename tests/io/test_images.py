"""Listing and decoding of images, readable and not."""

import io
import os
import pickle
import struct
import subprocess
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

import pseudo_ris
from pseudo_ris.cli.contact_sheet import main as contact_sheet
from pseudo_ris.cli.main import main as exchange
from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.io.images import decode_image, list_images, look_below, read_bytes, require_outside
from pseudo_ris.io.mask_png import decode_mask
from pseudo_ris.pairs.csv_pairs import upright_size


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def test_listing_is_recursive_sorted_and_skips_the_rest(tmp_path):
    for name in ("b.jpg", "a/z.PNG", ".hidden.png", ".git/x.png", "notes.txt", "a/c.webp"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert [record.name for record in list_images(tmp_path)] == ["a/c.webp", "a/z.PNG", "b.jpg"]


def test_linked_images_are_listed_linked_folders_and_dead_links_are_not(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.jpg").write_bytes(b"x")
    folder = tmp_path / "images"
    (folder / "folder.jpg").mkdir(parents=True)
    (folder / "link.jpg").symlink_to(tmp_path / "elsewhere" / "x.jpg")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "dead.jpg").symlink_to(tmp_path / "missing.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "jpg").touch()
    assert [(record.name, record.read()) for record in list_images(folder)] == [("link.jpg", b"x")]


def test_names_are_ordered_as_whole_paths(tmp_path):
    names = ["a.jpg", "a/b.jpg", "a-b.jpg", "a b/c.jpg", "a/b/c.jpg", "B.jpg"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    slow = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jpg"))
    assert [record.name for record in list_images(tmp_path)] == slow == sorted(names)


def test_folder_without_images_says_so(tmp_path):
    with pytest.raises(UserError, match="holds no image"):
        list_images(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        list_images(tmp_path / "missing")


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def test_records_read_their_own_file_also_in_another_process(tmp_path):
    folder = touched(tmp_path, "b.jpg", "a/z.png")
    for records in (list_images(folder), pickle.loads(pickle.dumps(list_images(folder)))):
        assert [record.read() for record in records] == [b"a/z.png", b"b.jpg"]
    (folder / "b.jpg").unlink()
    with pytest.raises(BadInputError, match=r"b\.jpg: cannot be read"):
        records[1].read()


def test_folders_of_any_depth_are_walked(tmp_path):
    levels = 1100
    above = os.open(tmp_path, os.O_RDONLY)
    for _ in range(levels):  # relative to the folder above: a path would be looked up from its first part each time
        os.mkdir("d", dir_fd=above)
        below = os.open("d", os.O_RDONLY, dir_fd=above)
        os.close(above)
        above = below
    os.close(above)
    try:
        (tmp_path / ("d/" * levels) / "x.jpg").write_bytes(b"deep")
        (record,) = list_images(tmp_path)
        assert record.name == "d/" * levels + "x.jpg"
        assert record.read() == b"deep"
    finally:
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # shutil.rmtree is recursive


def test_a_single_image_is_a_folder_of_one(tmp_path):
    touched(tmp_path, "a.JPG", "b.jpg", "c.heic")
    (record,) = list_images(tmp_path / "a.JPG")
    assert (record.image_id, record.name, record.read()) == ("a", "a.JPG", b"a.JPG")
    with pytest.raises(UserError, match=r"c\.heic: is a file, but no image of .*\.jpg.*convert it or give a folder"):
        list_images(tmp_path / "c.heic")


def test_images_of_other_types_are_counted(tmp_path):
    touched(tmp_path, "a.jpg", "b.HEIC", "c/d.heic", "c/e.gif", "notes.txt", ".hidden.gif")
    (notice,) = look_below(tmp_path).notices()
    assert "3 files are skipped (1 .gif, 2 .heic); convert them" in notice
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"holds no image; .*1 \.gif, 2 \.heic"):
        list_images(tmp_path)


def test_masks_inside_the_folder_of_images_are_no_images(tmp_path):
    touched(tmp_path, "a.jpg", "out/masks/_meta/a.json", "out/masks/a/0.png", "given/a/0.png", "b/c.jpg")
    assert [record.name for record in list_images(tmp_path)] == ["a.jpg", "b/c.jpg", "given/a/0.png"]
    found = look_below(tmp_path, tmp_path / "b" / ".." / "given")
    assert (found.names, found.left_out) == (["a.jpg", "b/c.jpg"], ["given", "out/masks"])
    assert ["given: holds masks" in notice for notice in found.notices()] == [True, False]
    touched(tmp_path, "out/masks/half_written/0.png")
    with pytest.raises(UserError, match=r"holds no image; .*masks: holds masks, which are skipped"):
        list_images(tmp_path / "out" / "masks")
    with pytest.raises(UserError, match=r"--masks .*: is the folder of images, too; give the masks a folder of their own"):
        look_below(tmp_path, tmp_path / "b" / "..")


def test_the_masks_of_a_run_in_the_current_folder_are_no_images(tmp_path, monkeypatch):
    touched(tmp_path, "a.jpg", "masks/a/0.png")
    monkeypatch.chdir(tmp_path)
    assert look_below(Path(), Path("masks")).names == ["a.jpg"]


def test_masks_among_the_images_themselves_are_no_images(tmp_path):
    touched(tmp_path, "_meta/a.json", "a/0.png", "a.jpg", "b/c.jpg")
    assert [record.name for record in list_images(tmp_path)] == ["a.jpg", "b/c.jpg"]


def test_a_folder_of_images_that_is_called_meta_hides_no_others(tmp_path):
    touched(tmp_path, "_meta/a.jpg", "_meta/notes.json", "b/c.jpg")
    assert [record.name for record in list_images(tmp_path)] == ["_meta/a.jpg", "b/c.jpg"]


def test_image_files_may_not_be_written_among_the_images(tmp_path, monkeypatch):
    touched(tmp_path, "photos/a.jpg")
    monkeypatch.chdir(tmp_path)
    for place in ("photos/sheet.png", "photos/x/sheet.png", "photos"):
        with pytest.raises(UserError, match=f"--sheet {place}: lies in the folder of images.*elsewhere"):
            require_outside(Path(place), Path("photos"), "--sheet")
    require_outside(Path("sheet.png"), Path("photos"), "--sheet")
    require_outside(Path("photos/a.jpg/sheet.png"), Path("photos/a.jpg"), "--sheet")


def test_rgb_png_is_read_exactly(pixels):
    assert np.array_equal(decode_image(encoded(Image.fromarray(pixels)), "x.png"), pixels)


def test_greyscale_is_repeated(pixels):
    decoded = decode_image(encoded(Image.fromarray(pixels[..., 0])), "x.png")
    assert decoded.shape == (20, 30, 3)
    assert all(np.array_equal(decoded[..., channel], pixels[..., 0]) for channel in range(3))


def test_sixteen_bits_are_scaled_not_clipped():
    deep = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
    assert np.array_equal(decode_image(encoded(Image.fromarray(deep)), "x.png")[..., 0], (deep >> 8).astype(np.uint8))


def test_transparency_is_laid_on_white(pixels):
    layer = np.dstack([pixels, np.zeros((20, 30), np.uint8)])
    layer[:10, :, 3] = 255
    decoded = decode_image(encoded(Image.fromarray(layer)), "x.png")
    assert np.array_equal(decoded[:10], pixels[:10])
    assert (decoded[10:] == 255).all()


def test_palette_and_cmyk_are_read(pixels):
    image = Image.fromarray(pixels)
    assert decode_image(encoded(image.convert("P")), "x.png").shape == (20, 30, 3)
    assert decode_image(encoded(image.convert("CMYK"), "JPEG"), "x.jpg").shape == (20, 30, 3)


def test_exif_rotation_is_applied(pixels):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown rotated by 90 degrees clockwise
    decoded = decode_image(encoded(Image.fromarray(pixels), "PNG", exif=exif), "x.png")
    assert np.array_equal(decoded, np.rot90(pixels, -1))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"this is a text file", "not a readable image"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 50, "not a readable image"),
        (encoded(Image.new("RGB", (300, 300)), "JPEG")[:400], "not a readable image"),
        (encoded(Image.new("RGB", (1, 1))), "1x1 pixels; at least"),
        (encoded(Image.new("F", (20, 20)), "TIFF"), "floating-point"),
    ],
)
def test_unreadable_images_name_the_file(data, message):
    with pytest.raises(BadInputError, match=message) as caught:
        decode_image(data, "broken.jpg")
    assert "broken.jpg" in str(caught.value)


def test_the_reason_for_one_file_is_always_the_same():
    reasons = set()
    for _ in range(2):
        with pytest.raises(BadInputError) as caught:
            decode_image(b"no image", "broken.jpg")
        reasons.add(str(caught.value))
    (reason,) = reasons
    assert "JPEG, PNG, BMP, WEBP, TIFF" in reason
    assert "convert or replace the file" in reason


def test_too_many_pixels_are_refused_before_decoding():
    small = encoded(Image.new("1", (20, 20)))
    header = b"IHDR" + struct.pack(">2I", 20000, 20000) + small[24:29]
    claimed = small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]
    for decode in (partial(decode_image, name="huge.png"), decode_mask, partial(upright_size, name="huge.png")):
        with pytest.raises(BadInputError, match="megapixels"):
            decode(claimed)


@pytest.mark.parametrize(
    ("command", "options", "place"),
    [
        (contact_sheet, "--images photos --masks masks --pairs pairs.csv --sheet photos/x/sheet.png", "photos/x/sheet.png"),
        (exchange, "export --to etris photos/set --pairs pairs.csv --images photos --masks masks", "photos/set"),
        (exchange, "export --to coco photos/set --pairs pairs.csv --images photos --masks masks --copy-images", "photos/set"),
        (exchange, "convert --from coco in --to refer photos/set --images photos --copy-images", "photos/set"),
        (exchange, "unpack --from coco in photos/set --images photos", "photos/set"),
    ],
)
def test_commands_write_no_image_files_among_the_images(tmp_path, monkeypatch, command, options, place):
    touched(tmp_path, "photos/a.jpg")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"{place}: lies in the folder of images"):
        command(options.split())
    assert [path.name for path in tmp_path.rglob("*")] == ["photos", "a.jpg"]


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n{} loop\n%%EOF\n"


@pytest.fixture
def ghostscript(tmp_path, monkeypatch) -> Path:
    """A program `gs` that only notes, in the file whose path this is, that it was started."""
    started = tmp_path / "started"
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "gs"
    program.write_text(f"#!/bin/sh\necho started >> {started}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # Pillow remembers what it has found
    return started


def test_postscript_in_an_image_file_is_not_run(ghostscript):
    for decode in (partial(decode_image, name="x.jpg"), decode_mask, partial(upright_size, name="x.jpg")):
        with pytest.raises(BadInputError, match="not a readable image"):
            decode(POSTSCRIPT)
    assert not ghostscript.exists()


def icon_of(png: bytes) -> bytes:
    """An ICO file with one picture, said to have 16 x 16 pixels."""
    return struct.pack("<3H4B2H2I", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(png), 22) + png


def test_a_large_picture_in_an_icon_is_not_decoded():
    with pytest.raises(BadInputError, match=r"not a readable image \(none of"):
        decode_image(icon_of(encoded(Image.new("1", (3000, 3000)))), "x.png")


def test_only_one_place_opens_images():
    calls = [path.name for path in Path(pseudo_ris.__path__[0]).rglob("*.py") if "Image.open(" in path.read_text()]
    assert calls == ["images.py"]


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "BMP", "WEBP", "TIFF"])
def test_every_listed_type_is_read(kind):
    options = {"save_all": True, "append_images": [Image.new("RGB", (30, 20))]} if kind == "MPO" else {}
    assert decode_image(encoded(Image.new("RGB", (30, 20), "red"), kind, **options), "x").shape == (20, 30, 3)


def test_empty_and_missing_files(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(BadInputError, match="is empty"):
        read_bytes(tmp_path / "a.jpg")
    with pytest.raises(BadInputError, match="cannot be read"):
        read_bytes(tmp_path / "b.jpg")
