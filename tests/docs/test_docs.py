"""The documentation names what exists, and its marked code blocks run."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pkgutil
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from doc_pages import ROOT, Page, pages
from PIL import Image

from pseudo_ris.cli.main import COMMANDS, LAB, main
from pseudo_ris.config import CaptionGenerationConfig, MaskGenerationConfig
from pseudo_ris.errors import UserError
from pseudo_ris.ris.config import TrainConfig

PAGES = pages()
SCRIPTS = {
    "generate_masks/cutler_sam_masks.py": "masks",
    "generate_pseudo_supervision/distinctive_caption_generation.py": "pairs",
    "train_ris/train.py": "train",
    "train_ris/evaluate.py": "evaluate",
}
FOLDERS = ("benchmarks", "configs", "docs", "generate_masks", "generate_pseudo_supervision", "pseudo_ris", "scripts", "tests")
PATH = re.compile(rf"(?<![\w./])(?:{'|'.join((*FOLDERS, 'third_party', 'train_ris'))})/[\w./*+-]*")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w.-]*")
MADE = ("third_party/weights/",)
"""Paths that a command makes."""


def each_page(*names: str):
    chosen = [page for page in PAGES if not names or page.name in names]
    return pytest.mark.parametrize("page", chosen, ids=lambda page: page.name)


def test_every_page_is_in_the_navigation():
    on_disk = {str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")}
    assert on_disk == {page.name for page in PAGES if page.name.startswith("docs/")}


def test_the_readme_is_short():
    assert len(Page("README.md").text.splitlines()) <= 150


@each_page()
def test_links_lead_to_files(page):
    folder = (ROOT / page.name).parent
    targets = [target.partition("#")[0] for target in page.links]
    assert not [target for target in targets if target and not (folder / target).exists()]


@each_page()
def test_paths_of_the_repository_exist(page):
    named = {path.rstrip(".") for line in page.code for path in PATH.findall(line)}
    assert not [path for path in sorted(named) if not path.startswith(MADE) and not list(ROOT.glob(path))]


@each_page()
def test_names_of_modules_exist(page):
    words = [word for line in page.code for word in re.findall(r"(?<![\w.\"'/])(?:pseudo_ris|pr)(?:\.[A-Za-z]\w*)+", line)]
    for name in [re.sub("^pr\\.", "pseudo_ris.", word) for word in words] + re.findall(r"^::: (\S+)", page.text, re.MULTILINE):
        pkgutil.resolve_name(name)


@each_page()
def test_commands_and_their_options_exist(page):
    for line in page.code:
        for command, options in commands_of(line):
            unknown = [option for option in options if option not in options_of(command)]
            assert not unknown, f"{page.name}: `{line}`: {' '.join(command)} has no {', '.join(unknown)}"


@each_page()
def test_options_by_themselves_belong_to_some_command(page):
    words = [span for span in page.spans if span.startswith("--")]
    known = set().union(*map(options_of, all_commands())) | options_of_other_programs()
    assert not [option for span in words for option in map(dashed, OPTION.findall(span)) if option not in known]


@each_page()
def test_settings_exist(page):
    """Spans like `matching.rule` are settings of one of the stages."""
    stages = (MaskGenerationConfig(), CaptionGenerationConfig(), TrainConfig())
    groups = {name: part for stage in stages for name, part in vars(stage).items() if hasattr(part, "__dataclass_fields__")}
    named = [span.split(".") for span in page.spans if re.fullmatch(r"[a-z]+\.[a-z_]+", span)]
    assert not [f"{group}.{name}" for group, name in named if group in groups and not hasattr(groups[group], name)]


def test_every_setting_that_differs_from_the_papers_is_explained():
    ours, papers = (yaml.safe_load((ROOT / "configs" / name).read_text()) for name in ("default.yaml", "paper.yaml"))
    spans = Page("docs/paper-and-release.md").spans
    differing = [f"{group}.{name}" for group in ours for name in ours[group] if ours[group][name] != papers[group][name]]
    assert differing and not [setting for setting in differing if setting not in spans]


def test_every_room_is_on_the_map_and_in_the_list():
    rooms = {path.parent.name for path in (ROOT / "pseudo_ris").glob("*/__init__.py")}
    drawn = runpy.run_path(str(ROOT / "docs" / "figures" / "draw_rooms.py"))["BANDS"]
    assert {room for band in drawn.values() for room in band} == rooms
    listed = re.findall(r"^\| `(\w+)` \|", Page("docs/architecture.md").text, re.MULTILINE)
    assert rooms <= set(listed)
    picture = (ROOT / "docs" / "figures" / "rooms.svg").read_text()
    assert not [room for room in rooms if f">{room}</text>" not in picture]


def dashed(option: str) -> str:
    return option.rstrip(".").replace("_", "-")


def commands_of(line: str) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """The `pseudo-ris` commands of a line of code, scripts by their other names included, each with its options."""
    for part in re.split(r"&&|\|", line):
        words = part.split()
        for place, word in enumerate(words):
            if word == "pseudo-ris" and place + 1 < len(words) and re.fullmatch(r"[a-z][a-z-]*", words[place + 1]):
                rest = words[place + 1 :]
                nested = 2 if rest[0] in ("lab", "weights") and len(rest) > 1 and not rest[1].startswith("-") else 1
                command, rest = tuple(rest[:nested]), rest[nested:]
            elif word in SCRIPTS:
                command, rest = (SCRIPTS[word],), words[place + 1 :]
            else:
                continue
            yield command, [dashed(option) for word in rest for option in OPTION.findall(word)[:1]]
            break


def all_commands() -> list[tuple[str, ...]]:
    return [(name,) for name in COMMANDS if name != "lab"] + [("lab", name) for name in LAB] + [("weights", "download")]


@cache
def options_of(command: tuple[str, ...]) -> frozenset[str]:
    """Options of a command, with dashes, as its help names them."""
    return frozenset(map(dashed, OPTION.findall(help_of(command, "--help-all") or help_of(command, "--help"))))


def help_of(command: tuple[str, ...], option: str) -> str:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(io.StringIO()):
        try:
            code = main([*command, option])
        except UserError:
            code = 2
        except SystemExit as end:
            code = end.code
    return "" if code else shown.getvalue()


@cache
def options_of_other_programs() -> frozenset[str]:
    """Options that scripts and benchmarks read or name, and those of tools that the pages call."""
    sources = [*(ROOT / "scripts").glob("*.sh"), *(ROOT / "benchmarks").glob("*.py"), *(ROOT / "docs" / "figures").glob("*.py")]
    named = (OPTION.findall(path.read_text()) for path in sources)
    return frozenset(map(dashed, (option for options in named for option in options))) | {"--nproc-per-node"}


RUN_BLOCKS = """
import json, sys
from pseudo_ris.cli.main import main
for page, kind, code in json.load(open(sys.argv[1])):
    print(f"{page}: {code}", file=sys.stderr)
    try:
        ended = exec(code, {"__name__": "__main__"}) if kind == "python" else main(code)
    except SystemExit as ending:
        ended = ending.code
    assert not ended, ended
"""


@pytest.mark.slow
def test_marked_blocks_run(tmp_path):
    """In page order, in one folder and one process; a command that ran before is not run again."""
    (tmp_path / "photos").mkdir()
    for name in ("scene_00001.png", "scene_00003.png", "scene_00007.png"):
        shutil.copy(ROOT / "datasets" / "demo" / "images" / name, tmp_path / "photos")
    Image.open(tmp_path / "photos" / "scene_00007.png").save(tmp_path / "photo.jpg", quality=95)
    jobs: list[tuple[str, str, str | list[str]]] = []
    for block in (block for page in PAGES for block in page.blocks if block.run):
        assert block.language in ("bash", "python"), f"{block.page}: only bash and python blocks are run"
        if block.language == "python":
            jobs.append((block.page, "python", block.text))
            continue
        for command in map(shlex.split, block.commands):
            assert command[0] == "pseudo-ris", f"{block.page}: {command[0]} is not run by this test"
            jobs.append((block.page, "command", command[1:]))
    once = {json.dumps(job[1:]): job for job in reversed(jobs)}
    (tmp_path / "jobs.json").write_text(json.dumps([job for job in jobs if once[json.dumps(job[1:])] is job]))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-c", RUN_BLOCKS, "jobs.json"]
    run = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    assert len(jobs) >= 10


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_a_network(tmp_path):
    pytest.importorskip("mkdocs")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    run = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    built = list((tmp_path / "site").rglob("*.html"))
    assert len(built) > len(PAGES) - 2
    outside = {(path.name, address) for path in built for address in Loaded.of(path) if re.match(r"(\w+:)?//", address)}
    assert not outside
    styles = "".join(path.read_text() for path in (tmp_path / "site").rglob("*.css"))
    assert not re.findall(r"url\(['\"]?(?:https?:)?//|@import", styles)


class Loaded(HTMLParser):
    """Addresses that a page loads when it is opened: scripts, styles, pictures, frames."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    @classmethod
    def of(cls, path: Path) -> list[str]:
        parser = cls()
        parser.feed(path.read_text(encoding="utf-8"))
        return parser.addresses

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.addresses.append(given.get("src") or "")
        if tag == "link" and given.get("rel") not in ("canonical", "prev", "next"):
            self.addresses.append(given.get("href") or "")
