"""What scripts/finetune_coca.sh does without arguments, on a small set: data, open_clip's training, report, stage 2."""

import json
import shutil

import pytest

from generate_masks.cutler_sam_masks import main as generate_masks
from generate_pseudo_supervision.distinctive_caption_generation import main as generate_captions
from pseudo_ris.cli.lab.finetune import main as finetune
from pseudo_ris.cli.lab.finetune_data import main as write_data
from pseudo_ris.cli.lab.finetune_report import main as report
from pseudo_ris.distinctiveness.places import PLACE
from pseudo_ris.lab.finetune import CHECKPOINT
from pseudo_ris.world.grammar import parse

NAME = "distinctive_captions_cc3m"


@pytest.mark.slow
def test_fine_tuning_lowers_the_loss_and_stage_2_runs_on_the_result(tmp_path, demo_images, capsys):
    write_data(["--out", str(tmp_path), "--crops", "200"])
    run = tmp_path / "run"
    options = ["--model", f"local-dir:{tmp_path / 'coca_demo'}", "--batch-size", "25", "--lr", "2e-4", "--warmup", "4"]
    options += ["--epochs", "3", "--workers", "1", "--log-every-n-steps", "4"]
    command = [str(tmp_path / "crops" / "{00000..00003}.tar"), str(run), *options]
    assert finetune(command) == 0

    checkpoint = run / CHECKPOINT
    report(["--weights", str(checkpoint), "--log", str(run / "out.log"), "--scenes", "4"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    before, after = result["before"], result["after"]
    assert result["training_loss"][-1] < result["training_loss"][0] / 2
    assert after["caption_loss"] < before["caption_loss"] / 2
    assert after["beam_distinctive"] > before["beam_distinctive"]

    images, masks, pairs = tmp_path / "images", tmp_path / "masks", tmp_path / "pairs"
    images.mkdir()
    for image in sorted(demo_images.iterdir())[:1]:
        shutil.copy(image, images)
    common = ["--images", str(images), "--masks", str(masks)]
    assert generate_masks(common) == 0
    assert generate_captions([*common, "--output", str(pairs), "--coca.weights", str(checkpoint)]) == 0
    rows = [json.loads(line) for line in (pairs / f"{NAME}.json").read_text().splitlines()]
    captions = [
        caption
        for row in rows
        for caption, strategy in zip(row["pseudo_caption"], row["strategy"], strict=True)
        if strategy != PLACE
    ]
    assert len(captions) == 44 * len(rows) > 0
    assert sum(parse(caption) is not None for caption in captions) > 0.9 * len(captions)

    finished = checkpoint.stat().st_mtime_ns
    assert finetune(command) == 0
    assert checkpoint.stat().st_mtime_ns == finished, "a finished training is not repeated"
