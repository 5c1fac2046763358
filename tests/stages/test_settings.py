"""Command-line settings: presets, precedence, one-line errors."""

import io
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest
import yaml

from pseudo_ris.checkpoints.manifest import read_manifest
from pseudo_ris.cli.parsing import finite_number
from pseudo_ris.config import CaptionGenerationConfig, MaskGenerationConfig
from pseudo_ris.errors import UserError
from pseudo_ris.ris.config import EvaluateConfig, TrainConfig
from pseudo_ris.ris.models.sam.model import SIZES
from pseudo_ris.ris.training.rhythm import Rhythm
from pseudo_ris.runtime.command import run_recipe
from pseudo_ris.stages.settings import parse_config

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "configs" / "demo.yaml"


def test_defaults_are_the_demo_preset():
    for stage in (MaskGenerationConfig, CaptionGenerationConfig):
        assert parse_config(stage, ["--config", str(DEMO)]) == stage()
        assert parse_config(stage, []) == stage()


def test_a_preset_may_be_given_by_its_name():
    assert parse_config(MaskGenerationConfig, ["--config", "demo"]) == MaskGenerationConfig()
    named, by_path = (
        parse_config(CaptionGenerationConfig, ["--config", each]) for each in ("paper", str(CONFIGS / "paper.yaml"))
    )
    assert named == by_path
    with pytest.raises(UserError, match="papr: no such preset; did you mean paper"):
        parse_config(CaptionGenerationConfig, ["--config", "papr"])


def test_options_win_over_files_and_later_files_over_earlier(tmp_path):
    (tmp_path / "a.yaml").write_text("sam: {points_per_side: 4, points_per_batch: 8}\ndecoding: {seed: 3}\n")
    (tmp_path / "b.yaml").write_text("sam:\n  points_per_side: 5\n")
    files = ["--config", str(tmp_path / "a.yaml"), f"--config={tmp_path / 'b.yaml'}"]
    config = parse_config(MaskGenerationConfig, [*files, "--sam.points_per_batch", "9"])
    assert (config.sam.points_per_side, config.sam.points_per_batch) == (5, 9)
    assert parse_config(CaptionGenerationConfig, files).decoding.seed == 3


def test_lists_dashes_and_switches():
    config = parse_config(CaptionGenerationConfig, ["--decoding.top-k", "[3,4]", "--retry-failed", "--images=x"])
    assert (config.decoding.top_k, config.retry_failed, config.images) == ((3, 4), True, "x")


@pytest.mark.parametrize(
    "written",
    [["--splits", "val", "testA"], ["--splits", "val,testA"], ["--splits=val,testA"], ["--splits", "[val,", "testA]"]],
)
def test_a_list_is_written_as_words_with_commas_or_in_brackets(written):
    config = parse_config(EvaluateConfig, [*written, "--batch_size", "3"])
    assert (config.splits, config.batch_size) == (("val", "testA"), 3)
    assert parse_config(EvaluateConfig, ["--splits", "val"]).splits == ("val",)
    assert parse_config(EvaluateConfig, ["--splits", "[]"]).splits == ()


def test_a_list_of_numbers_may_be_written_as_words():
    config = parse_config(CaptionGenerationConfig, ["--decoding.top-k", "3", "4", "--images", "x"])
    assert (config.decoding.top_k, config.images) == ((3, 4), "x")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sam.points_per_sid", "3"], "did you mean sam.points_per_side"),
        (["--imges", "x"], "did you mean images"),
        (["--sam.points_per_side", "many"], "sam.points_per_side: expected"),
        (["--sam.points_per_side", "0"], "points_per_side: must be greater than 0"),
        (["--cutler.score_threshold", "1.5"], "score_threshold: must be from 0 to 1"),
        (["--sam.architecture", "vit_x"], "sam.architecture: expected"),
        (["--workers", "4"], "workers: 4 processes need an engine; add --engine local"),
        (["--gpus-per-worker=.inf"], "gpus_per_worker: a worker uses one GPU at most, got inf"),
        (["--image_timeout", ".inf"], "image_timeout: must be a finite number, got inf"),
        (["--config", "missing.yaml"], "missing.yaml: No such file"),
        (["--config"], "needs a YAML file"),
        (["stray"], "stray"),
    ],
)
def test_bad_options_are_one_line_with_a_remedy(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        parse_config(MaskGenerationConfig, arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sam: {pointsperside: 3}", "sam.pointsperside: no such setting; did you mean sam.points_per_side"),
        ("decodin: {seed: 1}", "did you mean decoding.seed"),
        ("sam: {points_per_side: [1]}", "sam.points_per_side: expected"),
        ("sam: {points_per_side: [[1]]}", "sam.points_per_side: must be a value or a list of values"),
        ("sam: {points_per_side: {x: 1}}", "sam.points_per_side.x: no such setting; did you mean sam.points_per_side"),
        ("image_timeout: .nan", "image_timeout: must be"),
        ("image_timeout: 1e400", "image_timeout: must be a finite number"),
        ("images: &a [*a]", "images: must be a value or a list of values"),
        ("sam: &a {points_per_side: *a}", "no such setting; did you mean sam.points_per_side"),
        (f"images: {'[' * 10_000}", "not YAML .nested more than"),
        ("\n".join(f"{depth * ' '}a:" for depth in range(1000)), "not YAML .nested more than"),
        ("a: [", "not YAML"),
        ("- 1", "holds no settings"),
    ],
)
def test_bad_files_name_file_and_key(tmp_path, content, message):
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        parse_config(MaskGenerationConfig, ["--config", str(tmp_path / "c.yaml")])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "1e400"])
def test_a_threshold_is_a_finite_number(tmp_path, value):
    (tmp_path / "c.yaml").write_text(f"scoring: {{threshold: {value}}}\n")
    with pytest.raises(UserError, match=r"scoring.threshold: must be a finite number, got (-?inf|nan)$"):
        parse_config(CaptionGenerationConfig, ["--config", str(tmp_path / "c.yaml")])
    with pytest.raises(UserError, match=r"scoring.threshold: "):
        parse_config(CaptionGenerationConfig, [f"--scoring.threshold={value}"])


def test_aliases_that_multiply_cost_nothing(tmp_path):
    """Each mapping holds the one before twice, 2^40 settings in all."""
    lines = ["q0: &a0 {x: 1}", *(f"q{i + 1}: &a{i + 1} {{l: *a{i}, r: *a{i}}}" for i in range(40)), "sam: *a40"]
    (tmp_path / "c.yaml").write_text("\n".join(lines))
    with pytest.raises(UserError, match="no such setting"):
        parse_config(MaskGenerationConfig, ["--config", str(tmp_path / "c.yaml")])


def test_a_number_of_a_command_line_is_finite():
    assert finite_number("-1e3") == -1000
    for text in ("inf", "-inf", "nan", "1e400", "x", ""):
        with pytest.raises(ArgumentTypeError, match="must be a finite number, got"):
            finite_number(text)


def test_demo_preset_names_every_setting_of_both_stages():
    """So that a copy of it is a full list of what can be changed."""
    content = yaml.safe_load(DEMO.read_text())
    for group in ("cutler", "sam", "matching", "crops", "coca", "decoding", "clip", "scoring"):
        stage = MaskGenerationConfig() if hasattr(MaskGenerationConfig(), group) else CaptionGenerationConfig()
        assert set(content[group]) == set(vars(getattr(stage, group)))


def test_user_errors_exit_with_2_and_one_line(capsys):
    def failing(argv):
        raise UserError("no such thing")

    with pytest.raises(SystemExit) as caught:
        run_recipe(failing)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: no such thing\n"


def test_a_name_that_is_not_utf8_can_be_printed(monkeypatch):
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, "utf-8"))

    def main(argv):
        print("masks are in caf\udce9", flush=True)
        return 0

    with pytest.raises(SystemExit) as caught:
        run_recipe(main)
    assert caught.value.code == 0
    assert printed.getvalue() == b"masks are in caf\\udce9\n"


CONFIGS = DEMO.parent
RIS_GROUPS = ("model", "masking", "schedule")
GROUPS = ("cutler", "sam", "matching", "crops", "coca", "decoding", "clip", "scoring")


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_full_size_presets_are_valid_for_both_stages_and_name_every_setting(preset):
    content = yaml.safe_load((CONFIGS / f"{preset}.yaml").read_text())
    for stage in (MaskGenerationConfig, CaptionGenerationConfig):
        config = parse_config(stage, ["--config", str(CONFIGS / f"{preset}.yaml")])
        for group in set(GROUPS) & set(vars(config)):
            assert set(content[group]) == set(vars(getattr(config, group)))
            assert all(
                getattr(getattr(config, group), name) in (value, tuple(value) if isinstance(value, list) else value)
                for name, value in content[group].items()
            )


def test_the_weights_of_the_presets_are_in_the_manifest_and_in_its_preset():
    manifest = read_manifest()
    for preset in ("default", "paper"):
        content = yaml.safe_load((CONFIGS / f"{preset}.yaml").read_text())
        for kind in ("cutler", "sam", "coca", "clip"):
            entry = manifest.files[content[kind]["weights"]]
            assert (entry.model, entry.architecture) == (kind, content[kind]["architecture"])
            assert entry.name in manifest.presets[preset]


def test_random_weights_come_at_full_size_unless_a_file_says_otherwise():
    config = parse_config(CaptionGenerationConfig, ["--weights", "random"])
    assert (config.coca.architecture, config.coca.weights) == ("coca_ViT-L-14", "random")
    assert (config.clip.architecture, config.clip.weights) == ("RN50", "random")
    config = parse_config(MaskGenerationConfig, ["--weights=random", "--config", str(DEMO)])
    assert (config.sam.architecture, config.sam.weights, config.cutler.weights) == ("demo", "random", "random")


def test_a_dry_run_of_the_paper_preset_needs_no_noun_model():
    paper = ["--config", str(CONFIGS / "paper.yaml")]
    assert parse_config(CaptionGenerationConfig, paper).scoring.noun_finder == "spacy"
    assert parse_config(CaptionGenerationConfig, [*paper, "--weights", "random"]).scoring.noun_finder == "auto"


def test_defaults_of_training_are_its_demo_preset_which_names_every_setting():
    preset = CONFIGS / "ris_demo.yaml"
    content = yaml.safe_load(preset.read_text())
    assert parse_config(TrainConfig, ["--config", str(preset)]) == TrainConfig() == parse_config(TrainConfig, [])
    for group in (*RIS_GROUPS, "data"):
        assert set(content[group]) == set(vars(getattr(TrainConfig(), group)))


@pytest.mark.parametrize("preset", ["maskris", "cris", "etris", "sam"])
def test_published_recipes_are_valid_and_name_every_setting_of_their_groups(preset):
    content = yaml.safe_load((CONFIGS / f"{preset}.yaml").read_text())
    config = parse_config(TrainConfig, ["--config", str(CONFIGS / f"{preset}.yaml")])
    for group in RIS_GROUPS:
        assert vars(getattr(config, group)) == content[group]


@pytest.mark.parametrize("preset", ["maskris", "cris", "etris"])
def test_published_recipes_average_no_weights_and_validate_by_epochs(preset):
    config = parse_config(TrainConfig, ["--config", str(CONFIGS / f"{preset}.yaml")])
    rhythm = Rhythm(config, steps=50 * 7 - 3, epoch=7)
    after = [epoch for epoch in range(1, 51) if rhythm.validates(min(7 * epoch, rhythm.steps))]
    assert after == ([1, 11, 21, 31, *range(35, 51)] if preset == "maskris" else [*range(1, 51)])
    assert config.ema == 0.0 and config.workers > 0


@pytest.mark.parametrize("preset", ["cris", "etris"])
def test_pseudo_pairs_are_drawn_as_in_the_release_by_the_presets_that_train_on_them(preset):
    data = parse_config(TrainConfig, ["--config", str(CONFIGS / f"{preset}.yaml")]).data
    assert (data.threshold, data.fallback) == (1.0, "unfiltered")


def test_what_maskris_starts_from_is_in_the_manifest_and_its_preset():
    content = yaml.safe_load((CONFIGS / "maskris.yaml").read_text())
    names = [content["model"][setting] for setting in ("image_weights", "text_weights", "vocabulary")]
    manifest = read_manifest()
    assert [entry.name for entry in manifest.select(["ris"])] == names
    assert [manifest.files[name].model for name in names] == ["swin", "bert", "bert_words"]


def test_what_sam_starts_from_is_in_the_manifest():
    model = yaml.safe_load((CONFIGS / "sam.yaml").read_text())["model"]
    files = read_manifest().files
    weights = [files[model[setting]] for setting in ("image_weights", "text_weights", "detector_weights")]
    assert [entry.model for entry in weights] == ["sam", "clip", "cutler"]
    size = SIZES[model["size"]]
    assert [entry.architecture for entry in weights] == [size.sam, size.clip, size.detector.architecture]


def test_options_of_training_reach_their_groups_and_a_file_may_hold_all_stages(tmp_path):
    (tmp_path / "all.yaml").write_text("sam: {points_per_side: 4}\nmodel: {input_size: 64}\nsplits: [val]\n")
    config = parse_config(TrainConfig, ["--config", str(tmp_path / "all.yaml"), "--masking.image", "--data.dataset", "drawn"])
    assert (config.model.input_size, config.masking.image, config.data.dataset) == (64, True, "drawn")
    assert parse_config(EvaluateConfig, ["--config", str(tmp_path / "all.yaml")]).splits == ("val",)
    assert parse_config(MaskGenerationConfig, ["--config", str(tmp_path / "all.yaml")]).sam.points_per_side == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.name", "lavt"], "model.name: expected"),
        (["--model.input_size", "100"], "input_size: must be a multiple of 32, got 100"),
        (["--data.datset", "refcoco"], "did you mean data.dataset"),
        (["--schedule.batch_size", "0"], "batch_size: must be greater than 0"),
        (["--schedule.warmup", "-1"], "warmup: must be 0 or more, got -1"),
        (["--schedule.steps", "-5"], "steps: must be 0 or more"),
        (["--schedule.clip_norm", "-1"], "clip_norm: must be 0 or more"),
        (["--schedule.weight_decay", "-0.1"], "weight_decay: must be 0 or more"),
        (["--validate_every", "-1"], "validate_every: must be 0 or more"),
        (["--workers", "-1"], "workers: must be 0 or more"),
        (["--seed", "-1"], "seed: must be 0 or more"),
        (["--ema", "1"], "ema: must be from 0 to below 1, got 1"),
        (["--weights", "random"], "--weights: no such setting"),
    ],
)
def test_bad_options_of_training_are_one_line(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        parse_config(TrainConfig, arguments)
    assert "\n" not in str(caught.value)


def test_evaluation_needs_a_batch():
    with pytest.raises(UserError, match="batch_size: must be greater than 0, got 0"):
        parse_config(EvaluateConfig, ["--batch_size", "0"])
