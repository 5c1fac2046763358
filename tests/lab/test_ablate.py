"""Studies of the lab: what they count, their intervals, and the files they write."""

from __future__ import annotations

import csv
import io
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from pseudo_ris.cli.lab import ablate as command
from pseudo_ris.lab.ablate import COUNTS, INTERVAL, MEASURES, RESAMPLES, count_expressions, csv_text, estimates
from pseudo_ris.lab.ablate_plots import draw_figure
from pseudo_ris.lab.studies import STUDIES
from pseudo_ris.lab.workbench import Settings
from pseudo_ris.world.grammar import full_caption
from pseudo_ris.world.scenes import draw_look_alikes


def counts_of(scenes: int, points: int, seed: int) -> np.ndarray:
    """Random counts in which no measure exceeds 1."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 5, (scenes, points, len(COUNTS))).astype(float)
    for whole in ("captions", "objects", "worded", "varied"):
        counts[..., COUNTS.index(whole)] = rng.integers(5, 9, (scenes, points))
    return counts


@pytest.mark.parametrize("name", STUDIES)
def test_settings_and_measures_of_a_study_exist(name):
    study = STUDIES[name]()
    assert len({(point.series, point.x) for point in study.points}) == len(study.points)
    assert study.measures <= MEASURES.keys()
    for point in study.points:
        settings = Settings().switched(point.switched)
        for key, value in point.switched.items():
            part, field = key.split(".")
            assert getattr(getattr(settings.stage2, part), field) == value


def test_values_and_intervals_equal_resampling_one_scene_at_a_time():
    counts, scenes = counts_of(7, 3, 1), 7
    measured = estimates(counts, seed=5)
    draws = np.random.default_rng(5).multinomial(scenes, np.full(scenes, 1 / scenes), RESAMPLES)
    for measure, (part, whole) in MEASURES.items():
        parts, wholes = counts[..., COUNTS.index(part)], counts[..., COUNTS.index(whole)]
        resampled = []
        for draw in draws:
            chosen = [scene for scene, times in enumerate(draw) for _ in range(times)]
            resampled.append([sum(parts[s, p] for s in chosen) / sum(wholes[s, p] for s in chosen) for p in range(3)])
        resampled = np.array(resampled)
        for index in range(3):
            estimate = measured[index][measure]
            assert estimate.value == pytest.approx(parts[:, index].sum() / wholes[:, index].sum())
            assert (estimate.low, estimate.high) == pytest.approx(tuple(np.percentile(resampled[:, index], INTERVAL)))
            differences = np.percentile(resampled[:, index] - resampled[:, 0], INTERVAL)
            assert (estimate.difference_low, estimate.difference_high) == pytest.approx(tuple(differences))


def test_intervals_hold_the_true_share_in_about_19_of_20_trials():
    rng, part, inside = np.random.default_rng(0), COUNTS.index("true"), 0
    for trial in range(200):
        counts = np.full((60, 1, len(COUNTS)), 10.0)
        counts[..., part] = rng.binomial(10, rng.beta(6, 4, (60, 1)))  # scenes differ in difficulty; the mean share is 0.6
        estimate = estimates(counts, seed=trial)[0]["true"]
        inside += estimate.low <= 0.6 <= estimate.high
    assert 180 <= inside <= 199


def test_a_point_without_expressions_has_no_share_and_a_point_equal_to_the_first_no_difference():
    counts = counts_of(5, 3, 2)
    counts[:, 1] = counts[:, 0]
    counts[:, 2] = 0
    first, same, empty = (of_point["distinctive"] for of_point in estimates(counts, seed=0))
    assert (same.value, same.low, same.high) == (first.value, first.low, first.high)
    assert (same.difference, same.difference_low, same.difference_high) == (0, 0, 0)
    assert np.isnan([empty.value, empty.low, empty.high, empty.difference]).all()


def test_expressions_of_a_drawn_scene_are_counted():
    scene = draw_look_alikes("validation", 3, 0, 3)
    full = [full_caption(obj) for obj in scene.objects]
    category = scene.objects[0].category
    texts = [[full[0], f"a {category}"], [full[1]], []]
    counts = dict(zip(COUNTS, count_expressions(scene, range(3), texts, {"self_bleu"}), strict=True))
    assert [counts[name] for name in COUNTS[:7]] == [3, 3, 2, 2, 3, 2, 2]
    first, second = full[0].split(), full[1].split()
    assert counts["words"] == len(first) + 2 + len(second)
    assert counts["vocabulary"] == len({*first, "a", category}) + len({*second})
    assert (counts["worded"], counts["varied"]) == (2, 1)
    assert counts["distinct_2"] == len({*pairwise(first), ("a", category)}) / len(first)
    assert 0 < counts["self_bleu"] < 1
    assert np.isnan(count_expressions(scene, range(3), texts, set())[COUNTS.index("self_bleu")])


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_csv_and_figure(tmp_path, capsys):
    name = "parts"
    assert command.main(["--studies", name, "--scenes", "2", "--workers", "1", "--out", str(tmp_path)]) == 0
    study = STUDIES[name]()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"| {study.title}") and len(lines) == 2 + len(study.points) + 1
    with (tmp_path / f"{name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(study.points) * len(study.measures)
    assert all(float(row["low"]) <= float(row["value"]) <= float(row["high"]) for row in rows if row["value"])
    assert Image.open(tmp_path / f"{name}.png").size[0] > 1000


@pytest.mark.parametrize("name", STUDIES)
def test_a_figure_shows_points_without_expressions_too(name):
    counts = counts_of(4, len(STUDIES[name]().points), 3)
    counts[:, -1] = 0
    picture = Image.open(io.BytesIO(draw_figure(name, estimates(counts, seed=0))))
    assert picture.size[0] > 1000 and len(picture.convert("RGB").getcolors(1 << 20)) > 50


def test_csv_leaves_out_what_a_study_does_not_measure():
    study = STUDIES["parts"]()
    rows = list(csv.DictReader(csv_text("parts", estimates(counts_of(4, len(study.points), 3), seed=0)).splitlines()))
    assert {row["measure"] for row in rows} == study.measures
    assert {row["x"] for row in rows} == {""}
