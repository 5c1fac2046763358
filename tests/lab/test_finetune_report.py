"""The report on fine-tuning: its loss against one token at a time, its verdicts, and that unchanged weights fail it."""

import json

import pytest
import torch

from pseudo_ris.captions.crops import CROP_SETS, cut_crop
from pseudo_ris.checkpoints.weights import EMBEDDED
from pseudo_ris.cli.lab.finetune_report import main
from pseudo_ris.config import CocaConfig, CropConfig
from pseudo_ris.errors import UserError
from pseudo_ris.lab.finetune_report import caption_loss, named_attributes, shortcomings, training_losses
from pseudo_ris.models.coca.captioner import CocaCaptioner, build_tokenizer
from pseudo_ris.world.grammar import full_caption
from pseudo_ris.world.scenes import SceneObject, draw_scene

LOG = """00:00:00 | INFO | Start epoch 0
00:00:01 | INFO | Train Epoch: 0 [  50/2000 (2%)] LR: 0.1 Contrastive_loss: 0.0 (0.0) Caption_loss: 0.60 (0.60)
00:00:02 | INFO | Train Epoch: 1 [2000/2000 (100%)] LR: 0.0 Contrastive_loss: 0.0 (0.0) Caption_loss: 5.0e-02 (0.30) Loss: 0.05
"""
BEFORE = {"caption_loss": 0.6, "beam_attributes_right": 0.98, "beam_distinctive": 0.57}
AFTER = {"caption_loss": 0.1, "beam_attributes_right": 0.975, "beam_distinctive": 0.76}


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "out.log"
    path.write_text(LOG)
    return path


def test_losses_are_read_from_the_log(log):
    assert training_losses(log) == [0.6, 0.05]


def test_a_log_without_losses_is_one_line(tmp_path, log):
    with pytest.raises(UserError, match="No such file"):
        training_losses(tmp_path / "other.log")
    log.write_text("Start epoch 0\n")
    with pytest.raises(UserError, match="no line with a caption loss"):
        training_losses(log)


def test_loss_is_that_of_one_token_at_a_time():
    captioner = CocaCaptioner.from_config(CocaConfig(), "cpu")
    scene = draw_scene("validation", 5, 0)
    tokenizer = build_tokenizer("demo")
    expected, count = 0.0, 0
    for obj, mask in zip(scene.objects, scene.masks, strict=True):
        ids = [tokenizer.sot_token_id, *tokenizer.encode(full_caption(obj)), tokenizer.eot_token_id]
        for crop_set in CROP_SETS:
            crop = cut_crop(scene.image, mask, crop_set, 96, CropConfig())[None]
            with torch.inference_mode():
                logits = captioner.model(crop, torch.tensor([ids]), output_labels=False)["logits"][0]
            expected -= sum(float(logits[place].log_softmax(0)[token]) for place, token in enumerate(ids[1:]))
            count += len(ids) - 1
    loss, tokens = caption_loss(captioner, scene)
    assert tokens == count
    assert loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a large red striped ball", (4, 4)),
        ("a small blue ball with stripes", (4, 2)),
        ("the ball in the picture", (1, 1)),
        ("a red boat", (2, 1)),
        ("red ball ball", (1, 0)),
    ],
)
def test_attributes_are_counted_one_by_one(text, expected):
    assert named_attributes(text, SceneObject("ball", "red", "striped", "large", (0, 0, 4, 4))) == expected


@pytest.mark.parametrize(
    ("changed", "losses", "message"),
    [
        ({}, [0.6, 0.1], None),
        ({"beam_attributes_right": 0.965}, [0.6, 0.1], "less often right"),
        ({"beam_distinctive": 0.57}, [0.6, 0.1], "not more often distinctive"),
        ({"caption_loss": 0.6}, [0.6, 0.1], "on new scenes did not fall"),
        ({"caption_loss": float("nan")}, [0.6, 0.1], "on new scenes did not fall"),
        ({}, [0.6, 0.6], "training loss did not fall"),
        ({}, [0.6, float("nan")], "training loss did not fall"),
    ],
)
def test_each_missing_improvement_is_named(changed, losses, message):
    missing = shortcomings(BEFORE, {**AFTER, **changed}, losses)
    assert [message in text for text in missing] == ([True] if message else [])


def test_weights_that_were_not_trained_fail(log, capsys):
    assert main(["--weights", str(EMBEDDED / "coca.safetensors"), "--log", str(log), "--scenes", "1", "--seed", "3"]) == 1
    shown = capsys.readouterr()
    result = json.loads(shown.out.splitlines()[-1])
    assert result["before"] == result["after"]
    assert result["captions"] == 4 * len(draw_scene("evaluation", 3, 0).objects)
    assert result["training_loss"] == [0.6, 0.05]
    assert "not more often distinctive" in shown.err
