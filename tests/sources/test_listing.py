"""The images of both stages from folders, annotation files and LMDBs, and the masks of annotations."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import shutil
from pathlib import Path

import pytest
from listed_images import (
    IDS,
    LEGACY,
    SOURCES,
    coco_name,
    lmdb_record,
    make_place,
    ref,
    settings,
    touched,
    write_lmdb,
)

from pseudo_ris.config import CaptionGenerationConfig, MaskGenerationConfig, SourceConfig
from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.records import ImageRecord
from pseudo_ris.sources.annotation_masks import AnnotationMasks
from pseudo_ris.sources.listing import find_images, list_records, open_masks
from pseudo_ris.storage.mask_store import MaskStore


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return make_place(tmp_path_factory.mktemp("sources"))


def read(record: ImageRecord) -> bytes:
    return record.read()


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_the_same_images(place, source):
    records = list_records(SourceConfig(**settings(place)[source]))
    assert [(record.image_id, record.name) for record in records] == [(str(number), coco_name(number)) for number in IDS]
    expected = [(place / "images" / record.name).read_bytes() for record in records]
    assert [record.read() for record in records] == expected
    assert [record.read() for record in pickle.loads(pickle.dumps(records))] == expected


@pytest.mark.slow
def test_images_of_every_source_are_read_by_other_processes(place):
    records = [record for source in SOURCES for record in list_records(SourceConfig(**settings(place)[source]))]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(read, records, chunksize=1) == [record.read() for record in records]


def test_only_one_list_may_be_given(place):
    config = MaskGenerationConfig(coco="a.json", lmdb="b.lmdb")
    with pytest.raises(UserError, match=r"--coco and --lmdb: .*give only one"):
        list_records(config)


@pytest.mark.parametrize(
    ("option", "content", "message"),
    [
        ("coco", b"no json", r"list: not JSON"),
        ("coco", b"[" * 100000, r"list: not JSON"),
        ("coco", b"[]", r"list: has no list images"),
        ("coco", b'{"images": {}}', r"list: has no list images"),
        ("coco", b'{"images": []}', r"list: lists no images"),
        ("coco", b'{"images": [7]}', r"list, images 0: is no object"),
        ("coco", b'{"images": [{"id": 7}]}', r"list, images 0: file_name is missing"),
        ("coco", b'{"images": [{"id": true, "file_name": "a"}]}', r"list, images 0: id is missing or no"),
        ("coco", b'{"images": [{"id": 7, "file_name": "a"}, {"id": 7, "file_name": "b"}]}', r"images 1: id 7 is there twice"),
        ("coco", b'{"images": [{"id": 7, "file_name": "a"}, {"id": 8, "file_name": "a"}]}', r"'a' has two image ids, '7' and"),
        ("anns", b'[{"img_name": "a", "image_id": "\\ud800"}]', r"list: .*surrogates not allowed"),
        ("anns", b'[{"img_name": "a\\n", "img_id": 7}, {"img_name": "a\\n", "img_id": 8}]', r"'a\\n' has two image ids,"),
        ("anns", b'{"a": 1}', r"list: has no list"),
        ("anns", b"[]", r"list: lists no images"),
        ("anns", b'[{"img_id": 7}]', r"list, entry 0: img_name is missing or no"),
        ("anns", b'[{"img_name": "a"}, {"img_name": "a", "img_id": "x"}]', r"list, entry 1: img_id is missing or no"),
        ("anns", b'[{"img_name": "a", "img_id": 7}, {"img_name": "a", "img_id": 8}]', r"'a' has two image ids, '7' and '8'"),
        ("refer", b"no pickle", r"list: not a pickle of plain data"),
        ("refer", pickle.dumps({}), r"list: is dict, not a list of refs"),
        ("refer", pickle.dumps([ref(1, 7, split="val")]), r"--split train: .*list has no such split; choose one of: val"),
        (
            "refer",
            pickle.dumps([ref(1, 7), ref(2, 8, file_name="COCO_train2014_000000000007_2.jpg")]),
            r"has two image ids, '7' and '8'",
        ),
        ("lmdb", b"no LMDB", r"list: "),
        ("lmdb", b"", r"list: "),
    ],
)
def test_a_list_that_does_not_fit_is_one_line_that_names_the_place(tmp_path, option, content, message):
    path = tmp_path / "list"
    path.write_bytes(content)
    for setting in (path, tmp_path / "none"):
        with pytest.raises(UserError, match=message if setting is path else "none: ") as caught:
            list_records(SourceConfig(images=str(tmp_path), **{option: str(setting)}))
        assert "\n" not in str(caught.value)


def test_refs_without_instances_give_the_ids_too(place, tmp_path):
    refs = shutil.copy(place / "refs(unc).p", tmp_path)
    records = list_records(SourceConfig(images=str(place / "images"), refer=str(refs)))
    assert [(record.image_id, record.name) for record in records] == [(str(number), coco_name(number)) for number in IDS]


def test_ids_of_a_refer_set_are_those_of_its_instances(tmp_path):
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([ref(1, 3), ref(2, 4)], 2))
    images = [{"id": 3, "file_name": "three.jpg"}, {"id": 4, "file_name": "four.jpg", "image_id": "a__four"}]
    (tmp_path / "instances.json").write_text(json.dumps({"images": images}))
    touched(tmp_path, "images/a/three.jpg", "images/b/four.jpg")
    config = SourceConfig(images=str(tmp_path / "images"), refer=str(tmp_path / "refs(unc).p"))
    assert [(each.image_id, each.name) for each in list_records(config)] == [("3", "a/three.jpg"), ("a__four", "b/four.jpg")]
    (tmp_path / "instances.json").write_text(json.dumps({"images": images[:1]}))
    with pytest.raises(UserError, match=r"instances\.json: has no image 4, which the refs name"):
        list_records(config)


def test_names_give_the_ids_where_the_list_notes_none(tmp_path):
    dog, nine = "a/dog.jpg", coco_name(9)
    images = touched(tmp_path / "images", dog, nine)
    noted = ({dog: {}, nine: {}}, {dog: {"img_id": 5}, nine: {"img_id": 9}}, {dog: {"image_id": "x__dog"}, nine: {}})
    for number, (fields, image_id) in enumerate(zip(noted, ("a__dog", "5", "x__dog"), strict=True)):
        anns, records = tmp_path / f"{number}.json", tmp_path / f"{number}.lmdb"
        anns.write_text(json.dumps([{"img_name": name, **fields[name]} for name in (dog, nine)]))
        write_lmdb(records, [lmdb_record(images / name, img_name=name, **fields[name]) for name in (dog, nine)])
        for config in (SourceConfig(images=str(images), anns=str(anns)), SourceConfig(lmdb=str(records))):
            listed = [(each.image_id, each.name, each.read()) for each in list_records(config)]
            assert listed == [("9", nine, nine.encode()), (image_id, dog, dog.encode())]


def test_listed_images_are_found_by_path_or_by_what_it_ends_in(tmp_path):
    folder = touched(tmp_path, "b.jpg", "a/z.png", "a/c.webp", "a/b.jpg", "t/v/x.bin", "n/t/q.jpg")
    records = find_images(folder, {"z.png": "26", "b.jpg": "b", "t/v/x.bin": "x", "t/q.jpg": "8"})
    assert [(record.name, record.image_id) for record in records] == [
        ("a/z.png", "26"),
        ("b.jpg", "b"),
        ("n/t/q.jpg", "8"),
        ("t/v/x.bin", "x"),
    ]
    assert [record.read() for record in records] == [b"a/z.png", b"b.jpg", b"n/t/q.jpg", b"t/v/x.bin"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["n.jpg", "b.jpg", "m.jpg"],
            r"2 of 3 listed images are missing; first: 'm\.jpg': no such file in .*images; add it or give",
        ),
        (["x" * 300], "1 of 1 listed images are missing; first: 'x"),
        (["a"], "1 of 1 listed images are missing; first: 'a': no such file"),
        (["z.png"], r"z\.png' matches a/z\.png and c/z\.png"),
        (["./b.jpg"], r"'\./b\.jpg' is no path inside a folder"),
        (["y.png", "a/y.png"], r"a/y\.png is listed as"),
        (["../out.jpg"], r"'\.\./out\.jpg' is no path inside a folder"),
        (["a/../../out.jpg"], "is no path inside a folder"),
        (["/etc/hostname"], "'/etc/hostname' is no path inside a folder"),
        (["link.jpg"], r"link\.jpg': leads out of .*images"),
        (["deep.jpg"], r"a/deep\.jpg': leads out of .*images"),
        (["folder/out.jpg"], r"folder/out\.jpg': leads out of .*images"),
        (["loop.jpg"], "loop.jpg"),
        ([""], "'' is no path inside a folder"),
        (["b.jpg\0"], "is no path inside a folder"),
        (["\ud800.jpg"], "is no path inside a folder"),
    ],
)
def test_listed_images_that_cannot_be_told_or_lie_outside_are_refused(tmp_path, names, message):
    folder = touched(tmp_path / "images", "b.jpg", "a/z.png", "c/z.png", "a/y.png")
    touched(tmp_path, "out.jpg")
    (folder / "link.jpg").symlink_to(tmp_path / "out.jpg")
    (folder / "a" / "deep.jpg").symlink_to("../../out.jpg")
    (folder / "folder").symlink_to(tmp_path)
    (folder / "loop.jpg").symlink_to("loop.jpg")
    with pytest.raises(UserError, match=message) as caught:
        find_images(folder, dict.fromkeys(names, "1"))
    assert "\n" not in str(caught.value)
    assert "images" in str(caught.value)


def test_links_within_the_folder_are_followed(tmp_path):
    folder = touched(tmp_path / "images", "a/z.png")
    (folder / "b.png").symlink_to("a/z.png")
    (tmp_path / "link").symlink_to(folder)
    assert [record.read() for record in find_images(tmp_path / "link", {"b.png": "b"})] == [b"a/z.png"]


def test_an_lmdb_is_refused_when_names_do_not_tell_its_images(place, tmp_path):
    first, second = (place / "images" / coco_name(number) for number in IDS[:2])
    for records, message in (
        ([lmdb_record(first, img_id=7), lmdb_record(first, img_id=8)], "has two image ids, '7' and '8'"),
        ([lmdb_record(first), lmdb_record(first, img_id=8)], "has two image ids, '7' and '8'"),
        ([lmdb_record(first), lmdb_record(second, img_name=first.name)], "records 0 and 1 have different images named 'COCO"),
        ([lmdb_record(first, img_name="../x.jpg")], "'../x.jpg' is no path inside a folder"),
        ([lmdb_record(first, img_name=None)], "key 0.*: img_name is missing or no"),
        ([{}], "key 0.*: .* is missing"),
        ([], "lists no images"),
    ):
        path = write_lmdb(tmp_path / f"{len(list(tmp_path.iterdir()))}.lmdb", records)
        with pytest.raises(UserError, match=message) as caught:
            list_records(SourceConfig(lmdb=str(path)))
        assert str(path) in str(caught.value)


def test_an_image_of_an_lmdb_that_is_gone_is_a_failure_of_that_image(place, tmp_path):
    path = Path(shutil.copy(place / "file.lmdb", tmp_path))
    records = list_records(SourceConfig(lmdb=str(path)))
    path.write_bytes(path.read_bytes()[:8192])
    with pytest.raises(BadInputError, match=r"file\.lmdb"):
        records[0].read()


def test_an_lmdb_is_read_where_nothing_may_be_written(place, tmp_path):
    folder = Path(shutil.copytree(place / "folder.lmdb", tmp_path / "read_only"))
    (folder / "lock.mdb").unlink()
    for path in (folder / "data.mdb", folder):
        path.chmod(0o500)
    before = sorted(path.name for path in folder.iterdir())
    records = list_records(SourceConfig(lmdb=str(folder)))
    assert records[0].read() == (place / "images" / records[0].name).read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("name", ["etris_train.lmdb", "pseudo_ris_train.lmdb", "cris_pickle_train.lmdb"])
def test_the_original_tools_lmdbs_give_the_images_they_were_made_from(name):
    records = list_records(SourceConfig(lmdb=str(LEGACY / name)))
    anns = LEGACY / ("anns_pseudo_ris" if name.startswith("pseudo") else "anns_etris") / "train.json"
    listed = list_records(SourceConfig(images=str(LEGACY / "images"), anns=str(anns)))
    assert [(each.image_id, each.name, each.read()) for each in records] == [
        (each.image_id, each.name, each.read()) for each in listed
    ]
    assert [each.image_id for each in records] == [str(900000 + number) for number in range(1, 7)]


def test_masks_of_stage_2_are_opened_by_their_format(place, tmp_path):
    def opened(**masks: str) -> MaskStore | AnnotationMasks:
        return open_masks(CaptionGenerationConfig(**masks))

    assert isinstance(opened(masks=str(tmp_path)), MaskStore)
    assert isinstance(opened(masks=str(place / "instances.json"), mask_format="coco"), AnnotationMasks)
    assert isinstance(opened(masks=str(place / "refs(unc).p"), mask_format="refer"), AnnotationMasks)
    for masks, mask_format, message in (
        ("none", "folder", "--masks .*none: no such folder; run generate_masks"),
        ("instances.json", "folder", "instances.json: is a file; if it holds annotations, add --mask_format coco or refer"),
        ("images", "coco", "images: Is a directory; give a JSON file"),
        ("none", "refer", "none: No such file"),
    ):
        with pytest.raises(UserError, match=message):
            opened(masks=str(place / masks), mask_format=mask_format)


# From here on: the two stages, with fewer prompts and candidates than the presets have.
