"""Listing and decoding of images, readable and not."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.images import check_ids, decode_image, image_id_of, list_images, read_bytes
from pseudo_ris.records import ImageRecord


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "image_id"),
    [
        ("COCO_train2014_000000000009.jpg", "9"),
        ("val/COCO_val2014_000000123456.jpg", "123456"),
        ("train2017/000000000030.jpg", "30"),
        ("dog.jpg", "dog"),
        ("a/b/c.d.png", "a__b__c.d"),
        ("0009.jpg", "0009"),
    ],
)
def test_image_ids(name, image_id):
    assert image_id_of(name) == image_id


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


def test_two_images_with_one_id_are_both_refused(tmp_path):
    for name in ("a.jpg", "a.png", "b.jpg", "c/d.jpg", "c__d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    reasons = check_ids(list_images(tmp_path))
    assert sorted(reasons) == ["a.jpg", "a.png", "c/d.jpg", "c__d.jpg"]
    assert reasons["a.jpg"] == "image id a is also that of a.png; rename the file, or mend the list that gives it its id"


def test_many_images_with_one_id_are_refused_in_few_words():
    reasons = check_ids([ImageRecord("0", f"{n}.jpg", bytes) for n in range(20000)])
    assert reasons["7.jpg"].startswith("image id 0 is also that of 0.jpg, 1.jpg, 2.jpg and 19996 more; rename the file")
    assert reasons["1.jpg"].startswith("image id 0 is also that of 0.jpg, 2.jpg, 3.jpg and 19996 more; rename the file")
    assert len(reasons) == 20000


def test_ids_that_cannot_be_folder_names_are_refused(tmp_path):
    (tmp_path / "_meta.png").touch()
    folder = tmp_path / ("x" * 150)
    folder.mkdir()
    (folder / ("y" * 150 + ".png")).touch()
    assert len(check_ids(list_images(tmp_path))) == 2
    ids = ["../x", "a/b", "/x", ".lock", "..", "", "a\0b"]
    assert len(check_ids([ImageRecord(image_id, f"{n}.jpg", bytes) for n, image_id in enumerate(ids)])) == len(ids)


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
    assert reasons == {"broken.jpg: not a readable image (unknown format); replace the file"}


def test_too_many_pixels_are_refused_before_decoding():
    with pytest.raises(BadInputError, match="megapixels"):
        decode_image(encoded(Image.new("1", (20000, 20000))), "huge.png")


def test_empty_and_missing_files(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(BadInputError, match="is empty"):
        read_bytes(tmp_path / "a.jpg")
    with pytest.raises(BadInputError, match="cannot be read"):
        read_bytes(tmp_path / "b.jpg")
