"""Reading and writing checkpoints."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from pseudo_ris.config import CocaConfig, ScoringConfig
from pseudo_ris.errors import UserError
from pseudo_ris.weights import load_weights, read_metadata, resolve_weights, result_basis, save_weights


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def test_saved_weights_come_back_in_half_precision(tmp_path):
    model = small()
    save_weights(model, tmp_path / "w.safetensors", {"model": "small"})
    loaded = load_weights(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), tmp_path / "w.safetensors", "small")
    assert not loaded.training
    assert loaded[0].weight.dtype == torch.float32
    assert torch.equal(loaded[0].weight, model[0].weight.half().float())
    assert read_metadata(tmp_path / "w.safetensors") == {"model": "small"}
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("wrapped", [lambda s: s, lambda s: {"model": s}, lambda s: {"state_dict": s, "epoch": 3}])
def test_torch_files_are_read_as_they_are_published(tmp_path, wrapped):
    model = small()
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save(wrapped(state), tmp_path / "w.pth")
    loaded = load_weights(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), tmp_path / "w.pth", "small")
    assert torch.equal(loaded[0].weight, model[0].weight)


def test_weights_of_another_model_list_the_first_tensors_and_change_nothing(tmp_path):
    save_weights(small(), tmp_path / "w.safetensors", {})
    other = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Linear(2, 2))
    before = other[0].weight.clone()
    with pytest.raises(UserError, match=r"not weights of other \(demo\): .*1\.running_mean.*0\.bias, 0\.weight") as caught:
        load_weights(other, tmp_path / "w.safetensors", "other (demo)")
    assert "\n" not in str(caught.value)
    assert torch.equal(other[0].weight, before)


class Malicious:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def test_pickle_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Malicious()}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="not a plain tensor checkpoint"):
        load_weights(small(), tmp_path / "w.pth", "small")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_broken_files_are_one_line(tmp_path, name):
    (tmp_path / name).write_bytes(b"not a checkpoint at all")
    with pytest.raises(UserError, match=name) as caught:
        load_weights(small(), tmp_path / name, "small")
    assert "\n" not in str(caught.value)


def test_missing_file_says_which_setting():
    with pytest.raises(UserError, match=r"coca.weights: nowhere.pth does not exist"):
        resolve_weights("nowhere.pth", "coca")


def test_results_depend_on_contents_not_on_where_they_lie(tmp_path):
    for name in ("a", "b"):
        save_weights(small(), tmp_path / f"{name}.safetensors", {})
    save_weights(nn.Linear(2, 2), tmp_path / "c.safetensors", {})
    bases = [result_basis(coca=CocaConfig(weights=str(tmp_path / f"{name}.safetensors"))) for name in "abc"]
    assert bases[0] == bases[1] != bases[2]


def test_results_do_not_depend_on_what_is_only_counted():
    assert result_basis(scoring=ScoringConfig(threshold=1.0)) == result_basis(scoring=ScoringConfig(threshold=1.3))
    assert result_basis(scoring=ScoringConfig(score_floor=0.1)) != result_basis(scoring=ScoringConfig(score_floor=0.2))
