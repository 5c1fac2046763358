"""Image names stay inside their folder."""

from __future__ import annotations

import pytest

from pseudo_ris.errors import BadInputError
from pseudo_ris.io.safe_paths import check_name, images_beside, reader_inside


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / "images"
    (inside / "a").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(b"secret")
    (inside / "a" / "b.png").write_bytes(b"picture")
    (inside / "empty.png").touch()
    (inside / "link.png").symlink_to("../secret.png")
    (inside / "folder").symlink_to("..")
    (inside / "loop.png").symlink_to("loop.png")
    (inside / "good.png").symlink_to("a/b.png")
    return inside


@pytest.mark.parametrize("name", ["a/b.png", "good.png"])
def test_a_file_inside_is_read(folder, name):
    assert reader_inside(folder, name)() == b"picture"


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "a/../../secret.png", "link.png", "folder/secret.png", "folder/images/../secret.png", "loop.png",
     "", ".", "a", "none.png", "a//b.png", "a/./b.png", "x\0.png", "\ud800", "a/b.png/", "n" * 300, "a/b.png/c", "empty.png"],
)  # fmt: skip
def test_everything_else_is_refused_in_one_line(folder, name):
    with pytest.raises(BadInputError) as caught:
        reader_inside(folder, name)()
    assert "\n" not in str(caught.value)


def test_absolute_names_are_refused(folder):
    with pytest.raises(BadInputError, match="no path inside"):
        reader_inside(folder, str(folder / "a" / "b.png"))()


def test_without_a_folder_the_remedy_is_named():
    with pytest.raises(BadInputError, match="--images"):
        reader_inside(None, "a.png")()


def test_a_name_may_be_odd():
    for name in ("new\nline.png", "...", "-x", "é🎈/ü.png", "a\\b.png"):
        check_name(name)


def test_the_given_folder_wins(tmp_path):
    assert images_beside(tmp_path, None) is None
    (tmp_path / "images").mkdir()
    assert images_beside(tmp_path, None) == tmp_path / "images"
    assert images_beside(tmp_path, tmp_path) == tmp_path
