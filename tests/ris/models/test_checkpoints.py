"""Checkpoints: what is in them, what is refused, and that nothing half-written is ever read."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from tiny_model import tiny_targets

from pseudo_ris.errors import UserError
from pseudo_ris.ris.config import DataConfig, ModelConfig, ScheduleConfig, TrainConfig
from pseudo_ris.ris.models.build import build_model
from pseudo_ris.ris.models.checkpoints import (
    FORMAT,
    config_of,
    load_model,
    read_checkpoint,
    write_checkpoint,
)
from pseudo_ris.ris.models.maskris.tokenizer import SPECIAL
from pseudo_ris.ris.training.same_training import FREE, check_same_training, data_digest

CPU = torch.device("cpu")
CONFIG = TrainConfig(model=ModelConfig(input_size=32), output="a")


def content(config: TrainConfig = CONFIG, **others) -> dict:
    return {"config": asdict(config), "step": 3, "model": {"weight": torch.ones(2)}, "best": None, **others}


def test_what_is_written_is_read_back_and_settings_are_the_same(tmp_path):
    path = tmp_path / "last.pt"
    write_checkpoint(path, content())
    read = read_checkpoint(path)
    assert (read["format"], read["step"]) == (FORMAT, 3)
    assert config_of(read, path) == CONFIG
    assert [each.name for each in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("averaged", [False, True])
def test_a_model_is_loaded_without_the_files_its_towers_started_from(tmp_path, averaged):
    trained = build_model(CONFIG.model, seed=5)
    state = trained.state_dict()
    other = {name: torch.zeros_like(value) for name, value in state.items()}
    moved = replace(CONFIG, model=replace(CONFIG.model, image_weights="/no/longer/there.pt"))
    weights = {"model": other, "average": state} if averaged else {"model": state}
    write_checkpoint(tmp_path / "best.pt", content(moved, **weights))
    model, config = load_model(tmp_path / "best.pt", CPU)
    assert config == moved
    assert not model.training
    tokens, attention = trained.tokenizer(["the red ball"])
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(image, tokens, attention), trained.eval()(image, tokens, attention))


def test_a_maskris_brings_its_word_pieces_with_it(tmp_path):
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join([*SPECIAL, "a", "red", "ball"]) + "\n", encoding="utf-8")
    settings = ModelConfig("maskris", "tiny", image_weights="none", vocabulary=str(vocabulary), input_size=32)
    trained = build_model(settings, seed=5)
    saved = content(replace(CONFIG, model=settings), model=trained.state_dict(), pieces=trained.pieces)
    write_checkpoint(tmp_path / "best.pt", saved)
    write_checkpoint(tmp_path / "without.pt", {**saved, "pieces": []})
    vocabulary.unlink()
    model, _ = load_model(tmp_path / "best.pt", CPU)
    assert model.pieces == [*SPECIAL, "a", "red", "ball"]
    tokens, _ = model.tokenizer(["a red ball"])
    assert torch.equal(tokens, trained.tokenizer(["a red ball"])[0])
    assert tokens[0, :5].tolist() == [2, 5, 6, 7, 3]
    with pytest.raises(UserError, match=r"without.pt: its weights are not those of its model \('\[PAD\]'\)"):
        load_model(tmp_path / "without.pt", CPU)


class Harmful:
    def __reduce__(self):
        return os.system, ("true",)


def test_files_that_are_no_checkpoint_are_refused_in_one_line(tmp_path):
    write_checkpoint(tmp_path / "good.pt", content())
    data = (tmp_path / "good.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.pt").write_text("not weights")
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    torch.save({**content(), "format": FORMAT + 1}, tmp_path / "newer.pt")
    torch.save({**content(), "format": FORMAT, "extra": Harmful()}, tmp_path / "harmful.pt")
    torch.save({**content(), "format": FORMAT, "config": {"seed": 1}}, tmp_path / "settings.pt")
    torch.save({**content(), "format": FORMAT}, tmp_path / "weights.pt")
    expected = {
        "missing": "there is no such checkpoint; give best.pt or last.pt",
        "cut": "not a readable checkpoint",
        "empty": "not a readable checkpoint",
        "text": "not a readable checkpoint",
        "harmful": "not a readable checkpoint",
        "other": "not a checkpoint of train_ris/train.py",
        "newer": f"of format {FORMAT + 1}, this version reads {FORMAT}",
        "settings": "its settings are not this version's",
        "weights": "its weights are not those of its model",
    }
    for name, message in expected.items():
        with pytest.raises(UserError, match=f"{name}.pt: {message}") as caught:
            load_model(tmp_path / f"{name}.pt", CPU)
        assert "\n" not in str(caught.value)


def test_a_write_that_fails_leaves_the_checkpoint_that_was_there(tmp_path):
    path = tmp_path / "last.pt"
    write_checkpoint(path, content())
    (tmp_path / ".last.pt.tmp").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"cannot write .*last\.pt: No space left"):
        write_checkpoint(path, content(step=4))
    assert read_checkpoint(path)["step"] == 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (replace(CONFIG, seed=1), r"^--seed 1: x/last.pt was trained with 0; keep that, or give another --output$"),
        (replace(CONFIG, precision="fp32"), r"^--precision fp32: x/last.pt was trained with 'bf16'"),
        (replace(CONFIG, schedule=ScheduleConfig(learning_rate=1e-3)), r"^--schedule.learning_rate 0.001: "),
        (replace(CONFIG, model=replace(CONFIG.model, adapters=True)), r"^--model.adapters True: "),
        (replace(CONFIG, data=DataConfig(threshold=1.5)), r"^--data.threshold 1.5: "),
    ],
)
def test_settings_that_change_the_losses_are_refused_by_name(changed, message):
    saved = content(data=data_digest(tiny_targets(3)))
    with pytest.raises(UserError, match=message):
        check_same_training(saved, Path("x/last.pt"), changed, tiny_targets(3))


def test_other_settings_may_change_but_not_the_data():
    saved = content(data=data_digest(tiny_targets(3)))
    data = DataConfig(refer_root="elsewhere", images="there", pairs="c.csv", pair_images="i", pair_masks="m")
    changed = replace(CONFIG, output="b", workers=7, device="cuda", validate_every=9, data=data)
    check_same_training(saved, Path("last.pt"), changed, tiny_targets(3))
    with pytest.raises(UserError, match=r"last.pt: was trained on other data than these; restore them"):
        check_same_training(saved, Path("last.pt"), CONFIG, tiny_targets(4))


def test_the_settings_that_may_change_all_exist():
    named = {field.name for field in dataclasses.fields(TrainConfig)}
    parts = {"data": DataConfig, "schedule": ScheduleConfig}
    of_parts = {f"{name}.{field.name}" for name, part in parts.items() for field in dataclasses.fields(part)}
    assert named | of_parts >= FREE
