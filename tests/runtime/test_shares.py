"""Several runs on one folder: who works on what, who may work at the same time, and that the files are one run's."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from generate_masks.cutler_sam_masks import main as generate_masks
from generate_pseudo_supervision.distinctive_caption_generation import main as generate_captions
from pseudo_ris.errors import UserError
from pseudo_ris.models.clip.scorer import ClipScorer
from pseudo_ris.models.coca.captioner import CocaCaptioner
from pseudo_ris.models.cutler.detector import Cutler
from pseudo_ris.models.sam.segmenter import AutomaticSam
from pseudo_ris.runtime.runs import EXIT_FAILURES, read_failures
from pseudo_ris.runtime.shares import ALL, Shard, reading_from, working_in

ROOT = Path(__file__).parents[2]
STAGE1 = ROOT / "generate_masks" / "cutler_sam_masks.py"
STAGE2 = ROOT / "generate_pseudo_supervision" / "distinctive_caption_generation.py"
RESERVED = ("_failures.png", "_meta.png")
HOLD = """
import sys
from pathlib import Path
from pseudo_ris.runtime.shares import Shard, working_in
with working_in(Path(sys.argv[1]), Shard.parse(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""

MEET = """
import sys
from pathlib import Path
from pseudo_ris.errors import UserError
from pseudo_ris.runtime.shares import ALL, working_in
folder, done = Path(sys.argv[1]), 0
while done < 25:
    try:
        with working_in(folder, ALL):
            (folder / "note").touch(exist_ok=False)
            (folder / "note").unlink()
            done += 1
    except UserError as error:
        assert "another run is at work" in str(error), error
"""


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_shards_are_disjoint_ordered_and_together_everything(count):
    items = list(range(13))
    picked = [Shard(index, count).pick(items) for index in range(count)]
    assert sorted(item for share in picked for item in share) == items
    assert all(item % count == index for index, share in enumerate(picked) for item in share)
    assert all(share == sorted(share) for share in picked)


@pytest.mark.parametrize("text", ["2/2", "0/0", "-1/2", "1", "1/2/3", "a/b", "", "1 / 2", "0.5/1", "²/3"])
def test_other_shards_are_refused_in_one_line(text):
    with pytest.raises(UserError, match=r"--shard .*: must be K/N with 0 <= K < N") as caught:
        Shard.parse(text)
    assert "\n" not in str(caught.value)


def test_shards_are_parsed():
    assert [Shard.parse("0/1"), Shard.parse("2/3")] == [ALL, Shard(2, 3)]


def hold(folder: Path, shard: Shard | None):
    return reading_from(folder) if shard is None else working_in(folder, shard)


@pytest.mark.parametrize(
    ("first", "second", "agree"),
    [
        (ALL, ALL, False),
        (ALL, Shard(0, 2), False),
        (Shard(0, 2), ALL, False),
        (Shard(0, 2), Shard(1, 2), True),
        (Shard(0, 2), Shard(0, 2), False),
        (Shard(0, 2), Shard(1, 3), False),
        (None, None, True),
        (None, ALL, False),
        (ALL, None, False),
        (Shard(1, 2), None, False),
        (None, Shard(1, 2), False),
    ],
)
def test_who_may_be_at_work_at_the_same_time(tmp_path, first, second, agree):
    with hold(tmp_path, first):
        for _ in range(2):
            with ExitStack() as stack:
                if agree:
                    stack.enter_context(hold(tmp_path, second))
                else:
                    with pytest.raises(UserError, match="another run is at work in"):
                        stack.enter_context(hold(tmp_path, second))
    with hold(tmp_path, second):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_ends_when_the_run_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), working_in(tmp_path, ALL):
        raise ZeroDivisionError
    with working_in(tmp_path, ALL):
        pass


def test_a_lock_ends_with_a_killed_process_and_leaves_nothing(tmp_path):
    commands = [[sys.executable, "-c", HOLD, str(tmp_path), shard] for shard in ("0/2", "1/2")]
    processes = [subprocess.Popen(each, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) for each in commands]
    assert [process.stdout.readline() for process in processes] == [b"held\n"] * 2
    for process in processes:
        with pytest.raises(UserError, match="another run is at work in"), working_in(tmp_path, ALL):
            pass
        process.kill()
        process.communicate()
    with working_in(tmp_path, ALL):
        assert not list(tmp_path.glob(".lock.*-of-2"))
    assert list(tmp_path.iterdir()) == []


def test_many_runs_that_begin_and_end_never_meet(tmp_path):
    """Each notes itself while it is at work; a second one at that moment would find the note and fail."""
    processes = [subprocess.Popen([sys.executable, "-c", MEET, str(tmp_path)], cwd=ROOT) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_locked_is_one_clear_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"), working_in(tmp_path / "file", ALL):
        pass


# From here on: the two stages.


def contents(*folders: Path) -> dict[str, bytes]:
    """Everything below the folders, hidden files included."""
    files = [(folder, path) for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {f"{folder.name}/{path.relative_to(folder).as_posix()}": path.read_bytes() for folder, path in files}


def masks_options() -> list[str]:
    return ["--images", "images", "--masks", "masks"]


def pairs_options() -> list[str]:
    return [*masks_options(), "--output", "pairs"]


@pytest.fixture(scope="module")
def one_process(demo_images, tmp_path_factory) -> tuple[Path, dict[str, bytes]]:
    """Four scenes, a broken image, two whose ids are reserved, one in each half; and all that one process makes of them."""
    folder = tmp_path_factory.mktemp("one_process")
    images = folder / "images"
    images.mkdir()
    for path in sorted(demo_images.iterdir())[:5]:
        shutil.copy(path, images)
    (images / "broken.jpg").write_bytes(b"no image")
    for name in RESERVED:
        shutil.copy(images / "scene_00004.png", images / name)
    (images / "scene_00004.png").unlink()
    names = sorted(path.name for path in images.iterdir())
    assert {names.index(name) % 2 for name in RESERVED} == {0, 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # failures.csv names folders as they were given
        assert generate_masks(masks_options()) == EXIT_FAILURES
        assert generate_captions(pairs_options()) == EXIT_FAILURES
    expected = contents(folder / "masks", folder / "pairs")
    assert "pairs/distinctive_captions_cc3m.csv" in expected
    return images, expected


@pytest.fixture
def expected(one_process, tmp_path, monkeypatch) -> dict[str, bytes]:
    """What one process makes of `images` in the current folder, which holds nothing else."""
    images, expected = one_process
    shutil.copytree(images, tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    return expected


def process_of(recipe: Path, options: list[str], shard: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(recipe), *options, "--shard", shard]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def both_halves(recipe: Path, options: list[str]) -> None:
    processes = [process_of(recipe, options, shard) for shard in ("0/2", "1/2")]
    for process in processes:
        said, _ = process.communicate()
        assert process.returncode == EXIT_FAILURES, said
        assert said.rstrip().endswith("the same command without --shard puts the files together")


def refuse(*arguments):
    raise AssertionError("a model is loaded though there is nothing to make")


@pytest.mark.slow
def test_two_processes_on_disjoint_halves_give_one_process_s_files(expected, monkeypatch):
    """Both stages; the closing runs load no model."""
    for adapter in (Cutler, AutomaticSam, CocaCaptioner, ClipScorer):
        monkeypatch.setattr(adapter, "from_config", refuse)
    both_halves(STAGE1, masks_options())
    failed = [failure.image for n in range(2) for failure in read_failures(Path("masks") / f"failures.{n}-of-2.csv")]
    assert sorted(failed) == sorted(["broken.jpg", *RESERVED])
    assert generate_masks(masks_options()) == EXIT_FAILURES
    both_halves(STAGE2, pairs_options())
    assert not Path("pairs/distinctive_captions_cc3m.csv").exists()
    assert generate_captions(pairs_options()) == EXIT_FAILURES
    assert contents(Path("masks"), Path("pairs")) == expected


@pytest.mark.slow
def test_a_shard_killed_half_way_and_started_again_changes_nothing(expected):
    for recipe, main, options, results in (
        (STAGE1, generate_masks, masks_options(), Path("masks/_meta")),
        (STAGE2, generate_captions, pairs_options(), Path("pairs/distinctive_captions_cc3m.parts")),
    ):
        process = process_of(recipe, options, "1/2")
        while process.poll() is None and not list(results.glob("[!.]*.json")):
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        (results.parent / ".scene_00000.tmp").mkdir()  # what a kill at another moment leaves
        (results / ".scene_00000.json.tmp").touch()
        assert main([*options, "--shard", "0/2"]) == EXIT_FAILURES
        assert (results / ".scene_00000.json.tmp").exists(), "it might be another shard's"
        assert main([*options, "--shard", "1/2"]) == EXIT_FAILURES
        assert main(options) == EXIT_FAILURES
    assert contents(Path("masks"), Path("pairs")) == expected


def test_stages_refuse_what_would_mix_their_files(demo_images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(demo_images, "images")
    with working_in(Path("masks"), Shard(0, 2)):
        for main, options in ((generate_masks, masks_options()), (generate_captions, pairs_options())):
            with pytest.raises(UserError, match="another run is at work in masks; wait"):
                main(options)
    with pytest.raises(UserError, match="--output masks: holds the masks"):
        generate_captions([*masks_options(), "--output", "masks"])
    with pytest.raises(UserError, match="--shard 2/2"):
        generate_captions([*pairs_options(), "--shard", "2/2"])
