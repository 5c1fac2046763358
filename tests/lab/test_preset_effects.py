"""What the paper's settings change: the rows cover every difference, and the figures are those of the pipeline."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from pseudo_ris.cli.lab import preset_effects as preset_effects_command
from pseudo_ris.distinctiveness.nouns import RuleNounFinder
from pseudo_ris.lab import evaluate, preset_effects
from pseudo_ris.lab.preset_effects import Effect, effect, measured_differences, preset_differences, settings_with
from pseudo_ris.lab.workbench import Figures, Settings, Workbench, draw_mosaic, judge_filter, shown_twice
from pseudo_ris.records import CaptionRecord, MaskCaptions
from pseudo_ris.world.grammar import full_caption
from pseudo_ris.world.judge import CaptionCounts, MaskCounts
from pseudo_ris.world.scenes import Scene, SceneObject, draw_scene

CONFIGS = Path(__file__).parents[2] / "configs"
SCENE = draw_scene("evaluation", 11, 0)


def flat(preset):
    content = yaml.safe_load((CONFIGS / preset).read_text())
    return {
        f"{part}.{name}": tuple(value) if isinstance(value, list) else value
        for part, settings in content.items()
        for name, value in settings.items()
    }


def test_differences_are_those_of_the_two_files():
    ours, paper = flat("default.yaml"), flat("paper.yaml")
    assert ours.keys() == paper.keys()
    assert preset_differences() == {name: (ours[name], paper[name]) for name in ours if ours[name] != paper[name]}


def test_every_difference_has_a_row_or_a_reason_why_it_is_not_measured():
    in_rows = {setting for section in preset_effects.SECTIONS.values() for switched in section.switches for setting in switched}
    assert in_rows | preset_effects.NOT_MEASURED.keys() == preset_differences().keys()
    assert not in_rows & preset_effects.NOT_MEASURED.keys()
    for section in preset_effects.SECTIONS.values():
        assert (section.rows[0], set(section.rows[-1])) == ((), in_rows)


def test_a_row_switches_its_settings_and_nothing_else():
    demo = flat("demo.yaml")
    for switched in [(), ("sam.channel_order",), ("matching.rule", "scoring.fallback"), measured_differences()]:
        settings = settings_with(switched)
        for name, value in demo.items():
            part, field = name.split(".")
            stage = settings.stage1 if hasattr(settings.stage1, part) else settings.stage2
            expected = preset_differences()[name][name in switched] if name in measured_differences() else value
            actual = getattr(getattr(stage, part), field)
            assert actual == expected, name


def test_a_mosaic_is_nine_scenes_side_by_side():
    mosaic = draw_mosaic("validation", 4, 1)
    scenes = [draw_scene("validation", 4, index) for index in range(9, 18)]
    assert [obj.category for obj in mosaic.objects] == [obj.category for scene in scenes for obj in scene.objects]
    np.testing.assert_array_equal(mosaic.image[256:512, 512:], scenes[5].image)
    assert len(mosaic.masks) == len(mosaic.objects) > 30
    for mask, obj in zip(mosaic.masks, mosaic.objects, strict=True):
        rows, columns = np.nonzero(mask)
        assert obj.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_masks_that_show_the_same_are_counted_both():
    masks = np.zeros((4, 4, 6), bool)
    masks[0, :, :4] = masks[1, :, :3] = masks[2, :, 4:] = masks[3, :, :1] = True
    assert shown_twice(masks) == 2
    assert shown_twice(masks[:0]) == 0


def scored(scene, docs_of_each):
    """For each object, captions with a DoC each: the first says everything, the others only the category."""
    return [
        MaskCaptions(
            index,
            False,
            tuple(
                CaptionRecord(text, "masked", "beam", obj.category, 20, 20, 1, 20, doc, None)
                for text, doc in zip([full_caption(obj), *[f"the {obj.category}"] * 9], docs, strict=False)
            ),
        )
        for index, (obj, docs) in enumerate(zip(scene.objects, docs_of_each, strict=True))
    ]


def test_training_draws_each_kept_expression_alike():
    small, large = (SceneObject("ball", "red", "plain", size, (0, 0, 1, 1)) for size in ("small", "large"))
    scene = Scene(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.uint8), (small, large))
    captions = scored(scene, [(2.0, 2.0, 2.0, 0.5), (0.5, 0.5)])
    dropped = judge_filter(scene, [0, 1], captions, 1.0, "drop")
    assert (dropped.masks, dropped.training, dropped.kept.captions) == (2, 1, 3)
    assert dropped.drawn_distinctive == pytest.approx(1 / 3)
    unfiltered = judge_filter(scene, [0, 1], captions, 1.0, "unfiltered")
    assert (unfiltered.masks, unfiltered.training, unfiltered.kept.captions) == (2, 2, 5)
    assert unfiltered.drawn_distinctive == pytest.approx(1 / 3 + 1 / 2)


def figures(found, objects):
    return Figures(masks=MaskCounts(objects=objects, found_well=found))


def test_the_error_of_a_difference_is_that_of_a_mean_where_images_weigh_the_same():
    rng = np.random.default_rng(0)
    ours, paper = rng.integers(0, 5, (2, 12))
    images = [(figures(int(a), 4), figures(int(b), 4)) for a, b in zip(ours, paper, strict=True)]
    measured = effect(images, 1, preset_effects.FIGURES["mask_recall_75"])
    differences = (paper - ours) / 4
    assert measured.value == pytest.approx(paper.mean() / 4)
    assert measured.difference == pytest.approx(differences.mean())
    assert measured.error == pytest.approx(differences.std(ddof=1) / np.sqrt(12))
    assert effect(images, 0, preset_effects.FIGURES["mask_recall_75"]).error == 0
    assert np.isnan(effect(images[:1], 1, preset_effects.FIGURES["mask_recall_75"]).error)


def test_the_error_leaves_out_one_image_at_a_time_where_they_weigh_differently():
    rng = np.random.default_rng(1)
    objects, (ours, paper) = rng.integers(2, 9, 7), rng.integers(0, 3, (2, 7))
    images = [(figures(int(a), int(n)), figures(int(b), int(n))) for a, b, n in zip(ours, paper, objects, strict=True)]
    without = [(np.delete(paper - ours, at).sum() / np.delete(objects, at).sum()) for at in range(7)]
    expected = np.sqrt(6 / 7 * np.sum((without - np.mean(without)) ** 2))
    assert effect(images, 1, preset_effects.FIGURES["mask_recall_75"]).error == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "difference", "error", "shown"),
    [
        (0.75, -0.0625, 0.01, (".750", "-.062")),
        (1.0, 0.5, 0.3, ("1.000", "≈")),
        (0.5, 0.0, 0.0, (".500", "=")),
        (0.5, 0.25, float("nan"), (".500", "+.250")),
        (float("nan"), float("nan"), float("nan"), ("nan", "+nan")),
    ],
)
def test_a_difference_is_shown_where_it_is_told_from_none(value, difference, error, shown):
    measured = Effect(value, difference, error)
    assert (measured.shown_value, measured.shown_difference) == shown


def test_table_and_summary_hold_every_row():
    measured = {
        name: [tuple(figures(row % 3, 3) for row, _ in enumerate(section.rows))] * 2
        for name, section in preset_effects.SECTIONS.items()
    }
    measured["mosaics"] = []
    text = preset_effects.table(measured)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["`matching.rule`", "iou", "intersection", ""] in rows
    assert ["`sam.channel_order` bgr", ".667 (+.667)"] in [row[:2] for row in rows]
    assert "mosaics" not in text
    summary = json.loads(json.dumps(preset_effects.summary(measured), allow_nan=False))
    assert [row["switched"] for row in summary["stage2"]] == [list(row) for row in preset_effects.SECTIONS["stage2"].rows]
    assert summary["stage1"][2]["mask_recall_75"] == [0.6667, 0.6667, 0.0]
    assert summary["stage1"][2]["distinctive_kept"] == [None, None, None]
    assert summary.keys() == {"stage1", "stage2"}


@pytest.mark.parametrize(("option", "value"), [("--scenes", "0"), ("--workers", "-1"), ("--seed", "-3"), ("--split", "train")])
def test_bad_options_are_refused(option, value, capsys):
    with pytest.raises(SystemExit) as stopped:
        preset_effects_command.main([option, value])
    assert stopped.value.code == 2
    assert option in capsys.readouterr().err


def kept_at(figures, threshold):
    return figures.kept[evaluate.THRESHOLDS.index(threshold)]


@pytest.mark.slow
def test_our_settings_give_the_figures_of_the_evaluation():
    expected = evaluate.measure_scene(Settings(), "evaluation", 11, 0)
    bench = Workbench(SCENE, "evaluation_11_0", RuleNounFinder())
    for find_masks, masks, captions in (
        (True, expected.masks, expected.on_predicted_masks),
        (False, MaskCounts(*[len(SCENE.objects)] * 6), expected.on_true_masks),
    ):
        measured = bench.measure(settings_with(()), find_masks)
        assert (measured.masks, measured.twice, measured.candidates) == (masks, 0, captions.candidates)
        assert measured.papers.kept == kept_at(captions, evaluate.PAPER_THRESHOLD)
        assert measured.recommended.kept == kept_at(captions, evaluate.RECOMMENDED_THRESHOLD)


@pytest.mark.slow
def test_shared_work_changes_no_figure():
    shared = Workbench(SCENE, "id", RuleNounFinder())
    for switched in [(), ("scoring.score_floor",), ("crops.antialias",), ("matching.rule", "scoring.fallback"), ()]:
        settings = settings_with(switched)
        for find_masks in (False, True):
            alone = Workbench(SCENE, "id", RuleNounFinder())
            assert shared.measure(settings, find_masks) == alone.measure(settings, find_masks)


def test_without_masks_all_objects_are_missed():
    never = Settings().switched({"cutler.score_threshold": 1.0})
    measured = Workbench(SCENE, "id", RuleNounFinder()).measure(never, find_masks=True)
    assert measured.masks == MaskCounts(objects=len(SCENE.objects))
    assert measured.papers.kept == measured.candidates == CaptionCounts(objects=len(SCENE.objects))
    assert measured.papers.masks == 0


@pytest.mark.slow
def test_the_result_does_not_depend_on_the_number_of_workers(capsys, monkeypatch):
    """All rows in two processes, and in this one the first two and the last of each section."""
    results = []
    rows = {name: len(section.rows) for name, section in preset_effects.SECTIONS.items()}
    for workers in ("2", "1"):
        assert preset_effects_command.main(["--scenes", "1", "--seed", "9", "--workers", workers]) == 0
        *_, last = capsys.readouterr().out.splitlines()
        results.append(json.loads(last))
        for name, section in preset_effects.SECTIONS.items():
            monkeypatch.setitem(preset_effects.SECTIONS, name, replace(section, switches=section.switches[:1]))
    both, alone = results
    for name in ("stage1", "stage2"):
        assert len(both[name]) == rows[name] > len(alone[name]) == 3
        assert alone[name] == [*both[name][:2], both[name][-1]]
