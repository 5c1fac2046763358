"""`pseudo-ris`: help pages fit a screen, wrong words get the nearest right one, completion and info cover everything."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from pseudo_ris.assets.data_files import preset_names
from pseudo_ris.checkpoints.manifest import local_path, read_manifest
from pseudo_ris.cli import info
from pseudo_ris.cli.main import COMMANDS, LAB, main, module_of
from pseudo_ris.cli.parsing import finite_number, whole_number
from pseudo_ris.config import CaptionGenerationConfig, MaskGenerationConfig
from pseudo_ris.errors import UserError
from pseudo_ris.ris.config import EvaluateConfig, TrainConfig
from pseudo_ris.stages.settings import settings_of

ALL = [*((name,) for name in COMMANDS if name != "lab"), *(("lab", name) for name in LAB)]
COMMAND = (sys.executable, "-m", "pseudo_ris.cli")
STAGES = {
    "masks": MaskGenerationConfig,
    "pairs": CaptionGenerationConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
}


def ended(words: list[str]) -> int:
    with pytest.raises(SystemExit) as ending:
        main(words)
    return ending.value.code


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_help_fits_a_screen(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert ended([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: pseudo-ris {' '.join(command)}")
    assert shown.count("\n") <= 40
    assert not [line for line in shown.splitlines() if line.startswith("  --") and "_" in line.split()[0]], (
        "options have dashes"
    )


@pytest.mark.parametrize("command", STAGES)
def test_help_all_lists_every_setting_with_its_default(command, capsys):
    assert ended([command, "--help-all"]) == 0
    words = capsys.readouterr().out.split()
    assert [name for name in settings_of(STAGES[command]) if f"--{name.replace('_', '-')}" not in words] == []
    assert all(setting.description for setting in settings_of(STAGES[command]).values())


def test_help_of_a_script_names_the_script():
    script = Path(__file__).parents[2] / "generate_masks" / "cutler_sam_masks.py"
    shown = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True).stdout
    assert shown.startswith(f"usage: python {script} ")


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["predict", "--imge", "x"], "did you mean --image?"),
        (["export", "--treshold=1"], "did you mean --threshold?"),
        (["weights", "list", "--too", "x"], "did you mean --to?"),
        (["weights", "downlod"], "choose from"),
        (["lab", "evaluate", "--sceens", "3"], "did you mean --scenes?"),
        (["status", "a", "b"], "unrecognized arguments: b"),
        (["lab", "evaluate", "--scenes", "0"], "must be at least 1"),
    ],
)
def test_a_wrong_option_is_one_line_with_the_nearest(words, remedy, capsys):
    assert ended(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and remedy in said


@pytest.mark.parametrize(
    ("words", "remedy"),
    [(["statsu"], "did you mean status"), (["lab", "evaluat"], "did you mean evaluate"), (["masks", "--imges", "x"], "images")],
)
def test_a_wrong_command_or_setting_names_the_nearest(words, remedy):
    with pytest.raises(UserError, match=remedy):
        main(words)


def test_values_after_an_option_may_look_like_options_of_another_program(tmp_path):
    with pytest.raises(UserError, match="is a shard, not the output folder"):
        main(["lab", "finetune", "a.tar", str(tmp_path / "b.tar"), "--epochs", "2"])


def test_numbers_have_limits():
    assert whole_number(1, 3)("3") == 3 and finite_number("1e3") == 1000
    for text in ("0", "4"):
        with pytest.raises(Exception, match="from 1 to 3"):
            whole_number(1, 3)(text)


@pytest.mark.slow
def test_completion_offers_commands_and_options(tmp_path):
    """In bash itself: what it offers for the words of a command line."""
    script = tmp_path / "completion.bash"
    script.write_text(subprocess.run([*COMMAND, "completion", "bash"], capture_output=True, text=True, check=True).stdout)
    lines = [f"source {script}"]
    for typed in ('pseudo-ris ""', "pseudo-ris masks --", 'pseudo-ris export --to ""', 'pseudo-ris lab ""'):
        lines += [f"COMP_WORDS=({typed}) COMP_CWORD={typed.count(' ')} COMPREPLY=()", "_shtab_pseudo_ris"]
        lines += ['echo "${COMPREPLY[@]}"']
    offered = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, check=True).stdout.splitlines()
    first, masks, formats, lab = (set(line.split()) for line in offered)
    assert set(COMMANDS) <= first and set(LAB) <= lab and {"refer", "parquet"} <= formats
    assert {f"--{name.replace('_', '-')}" for name in settings_of(MaskGenerationConfig)} <= masks


def test_info_finds_versions_presets_weights_and_disk(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PSEUDO_RIS_WEIGHTS", str(tmp_path / "weights"))
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["presets"] == list(preset_names()) and facts["libraries"]["torch"] and facts["cores"] >= 1
    assert facts["weights"] and not any(facts["weights"].values()) and all(free > 0 for free in facts["free_disk"].values())
    file = local_path(read_manifest().files["cutler"], tmp_path / "weights")
    file.parent.mkdir(parents=True)
    file.touch()
    assert info.gather()["weights"]["cutler"] == str(file)
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    assert "weights at hand" in shown and "cutler" in shown and str(tmp_path) in shown


def test_every_command_has_a_parser():
    for command in ALL:
        assert import_module(module_of(command)).make_parser().prog == f"pseudo-ris {' '.join(command)}"
