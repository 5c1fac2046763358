"""Both recipes with the embedded models: `--shard-size` changes where results are, and nothing that comes out."""

import shutil

import pytest

from generate_masks.cutler_sam_masks import main as generate_masks
from generate_pseudo_supervision.distinctive_caption_generation import main as generate_captions
from pseudo_ris.cli.export import main as export
from pseudo_ris.cli.unshard import main as unshard
from pseudo_ris.pairs.assembly import read_pairs
from pseudo_ris.visual.contact_sheet import write_contact_sheet

NAME = "distinctive_captions_cc3m"
FILES = [f"{NAME}{ending}" for ending in (".csv", ".json", "_text.txt", "_doc.txt")]

FEWER_MASKS = ("--sam.points_per_side", "8")
FEWER_TOKENS = ("--decoding.top_k", "[5]", "--decoding.top_p", "[]")

pytestmark = pytest.mark.slow


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def both_stages(images, folder, *options):
    masks, pairs = str(folder / "masks"), str(folder / "pairs")
    assert generate_masks(["--images", str(images), "--masks", masks, *FEWER_MASKS, *options]) == 0
    assert generate_captions(["--images", str(images), "--masks", masks, "--output", pairs, *FEWER_TOKENS, *options]) == 0


@pytest.fixture(scope="module")
def stages(demo_images, tmp_path_factory):
    """Images, and both stages on them without and with shards."""
    folder = tmp_path_factory.mktemp("stages")
    (folder / "images").mkdir()
    for path in sorted(demo_images.iterdir())[:3]:
        shutil.copy(path, folder / "images")
    both_stages(folder / "images", folder / "plain")
    both_stages(folder / "images", folder / "shards", "--shard-size", "2")
    return folder


def test_pairs_are_the_same_and_nothing_lies_about(stages):
    for name in FILES:
        assert (stages / "shards/pairs" / name).read_bytes() == (stages / "plain/pairs" / name).read_bytes()
    in_shards = ["000000.parquet", "000001.parquet", "index.jsonl"]
    assert sorted(tree(stages / "shards/masks")) == [f"_meta/shards/{name}" for name in in_shards]
    assert sorted(tree(stages / "shards/pairs")) == sorted([*FILES, *(f"{NAME}.parts/shards/{name}" for name in in_shards)])


def test_workers_and_restarts_give_the_same_bytes(stages, tmp_path):
    both_stages(stages / "images", tmp_path, "--shard-size", "2", "--engine", "local", "--workers", "2")
    assert tree(tmp_path) == tree(stages / "shards")
    (tmp_path / "masks/_meta/shards/000001.parquet").write_bytes(b"cut short")
    (tmp_path / f"pairs/{NAME}.parts/shards/000000.parquet").unlink()
    both_stages(stages / "images", tmp_path, "--shard-size", "2")
    assert tree(tmp_path) == tree(stages / "shards")


def test_masks_in_shards_are_read_by_stage_2_without_shards(stages, tmp_path):
    masks = str(stages / "shards/masks")
    options = ["--images", str(stages / "images"), "--masks", masks, "--output", str(tmp_path), *FEWER_TOKENS]
    assert generate_captions(options) == 0
    assert tree(tmp_path) == tree(stages / "plain/pairs")


def test_the_contact_sheet_is_the_same(stages, tmp_path):
    for kind in ("plain", "shards"):
        pairs = stages / kind / "pairs" / f"{NAME}.csv"
        write_contact_sheet(stages / "images", stages / kind / "masks", pairs, tmp_path / f"{kind}.png", 1.2)
    assert read_pairs(pairs)
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "shards.png").read_bytes()


@pytest.mark.parametrize("form", ["webdataset", "parquet"])
def test_exports_are_the_same(stages, tmp_path, form):
    for kind in ("plain", "shards"):
        options = ["--pairs", str(stages / kind / "pairs" / f"{NAME}.csv"), "--masks", str(stages / kind / "masks")]
        assert export(["--to", form, str(tmp_path / kind), "--images", str(stages / "images"), *options]) == 0
    exported = [tree(tmp_path / kind) or (tmp_path / kind).read_bytes() for kind in ("plain", "shards")]
    assert exported[0] == exported[1]


def test_unpacked_shards_are_the_files_of_a_run_without(stages, tmp_path):
    shutil.copytree(stages / "shards", tmp_path / "out")
    assert unshard(["--masks", str(tmp_path / "out/masks")]) == 0
    assert unshard(["--output", str(tmp_path / "out/pairs")]) == 0
    assert tree(tmp_path / "out") == tree(stages / "plain")
