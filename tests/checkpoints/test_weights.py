"""Reading and writing checkpoints."""

from __future__ import annotations

import json
import os

import pytest
import torch
from torch import nn

from pseudo_ris.checkpoints import weights
from pseudo_ris.checkpoints.open_clip_tags import fetch_tag
from pseudo_ris.checkpoints.random_weights import fill_at_random
from pseudo_ris.checkpoints.weights import find_weights, load_weights, read_metadata, result_basis, save_weights
from pseudo_ris.config import ClipConfig, CocaConfig, CutlerConfig, SamConfig, ScoringConfig
from pseudo_ris.errors import UserError
from pseudo_ris.io.files import file_digest
from pseudo_ris.models.clip.scorer import build_clip
from pseudo_ris.models.coca.captioner import build_coca


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
    with pytest.raises(UserError, match=r"not weights of other \(demo\): .*1\.running_mean.*0\.bias is \(4,\)") as caught:
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


def test_missing_file_says_which_setting_and_which_names_there_are():
    with pytest.raises(UserError, match=r"coca.weights: nowhere.pth does not exist; .* coca_laion2b") as caught:
        find_weights(CocaConfig(weights="nowhere.pth"), "coca")
    assert "\n" not in str(caught.value)


@pytest.fixture
def weights_here(tmp_path, monkeypatch):
    """An empty folder of downloaded weights."""
    monkeypatch.setenv("PSEUDO_RIS_WEIGHTS", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("config", "kind", "file"),
    [
        (CutlerConfig(architecture="resnet50_fpn", weights="cutler"), "cutler", "cutler_cascade_final.pth"),
        (CocaConfig("coca_ViT-L-14", "coca_cc3m"), "coca", "coca_ViT-L-14_cc3m.pt"),
        (CocaConfig("coca_ViT-L-14", "mscoco_finetuned_laion2b_s13b_b90k"), "coca", None),
        (ClipConfig("RN50", "openai"), "clip", "RN50.pt"),
    ],
)
def test_names_and_tags_of_the_manifest_lead_to_the_download(weights_here, config, kind, file):
    with pytest.raises(UserError, match=r"is not there; run: bash scripts/download_weights.sh \w+$"):
        find_weights(config, kind)
    if file and file != "RN50.pt":  # no checksum of these is published
        (weights_here / file).write_bytes(b"anything")
        assert find_weights(config, kind) == weights_here / file


def test_a_manifest_file_is_held_to_its_published_checksum(weights_here):
    (weights_here / "RN50.pt").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"clip.weights: clip_rn50: .*RN50.pt is not the file that was published") as caught:
        find_weights(ClipConfig("RN50", "clip_rn50"), "clip")
    assert "\n" not in str(caught.value)


def test_a_manifest_file_is_held_to_its_recorded_checksum(weights_here):
    (weights_here / "cutler_cascade_final.pth").write_bytes(b"something else")
    (weights_here / "checksums.json").write_text(json.dumps({"cutler_cascade_final.pth": "0" * 64}))
    with pytest.raises(UserError, match="is not the file that was published"):
        find_weights(CutlerConfig(architecture="resnet50_fpn", weights="cutler"), "cutler")


def test_a_manifest_name_of_another_model_says_what_it_is(weights_here):
    with pytest.raises(UserError, match=r"sam_vit_h is sam vit_h; set sam\.architecture"):
        find_weights(SamConfig(architecture="vit_b", weights="sam_vit_h"), "sam")


def test_a_tag_of_open_clip_is_taken_from_the_hub_cache_or_refused_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"RN50 cc12m: open_clip cannot download these weights") as caught:
        fetch_tag("RN50", "cc12m", tmp_path)
    assert "\n" not in str(caught.value)
    repository = tmp_path / "models--timm--resnet50_clip.cc12m"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    file = repository / "snapshots" / ("a" * 40) / "open_clip_model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    assert fetch_tag("RN50", "cc12m", tmp_path) == file


def published(model: nn.Module) -> dict[str, torch.Tensor]:
    return {f"module.{name}": value for name, value in model.state_dict().items()}


def test_a_training_checkpoint_of_open_clip_is_read_without_its_optimizer(tmp_path):
    source, model = fill_at_random(build_coca("demo"), "coca"), build_coca("demo")
    optimizer = torch.optim.AdamW(source.parameters())
    optimizer.step()
    content = {"epoch": 1, "name": "run", "state_dict": published(source), "optimizer": optimizer.state_dict()}
    torch.save(content, tmp_path / "epoch_1.pt")
    load_weights(model, tmp_path / "epoch_1.pt", "coca (demo)")
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), source.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")  # OpenAI's archives stay what they are
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_half_precision_archive_of_openai_fills_the_clip(tmp_path, monkeypatch):
    source = fill_at_random(build_clip("demo"), "clip").half()
    holder = torch.jit.script(_as_openai(source))
    holder.save(str(tmp_path / "RN.pt"))
    monkeypatch.setattr(weights, "openai_checksums", lambda: {file_digest(tmp_path / "RN.pt")})
    loaded = load_weights(build_clip("demo"), tmp_path / "RN.pt", "clip (demo)")
    for own, half in zip(loaded.parameters(), source.parameters(), strict=True):
        assert own.dtype == torch.float32
        assert torch.equal(own, half.float())


def _as_openai(model: nn.Module) -> nn.Module:
    """A module of the same tensor names and OpenAI's three constants, with a forward that TorchScript accepts."""

    class Holder(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    root = Holder()
    for name, value in model.state_dict().items():
        at = root
        *folders, leaf = name.split(".")
        for folder in folders:
            if not hasattr(at, folder):
                at.add_module(folder, Holder())
            at = getattr(at, folder)
        if name in dict(model.named_parameters()):
            at.register_parameter(leaf, nn.Parameter(value, requires_grad=False))
        else:
            at.register_buffer(leaf, value)
    for constant in ("input_resolution", "context_length", "vocab_size"):
        root.register_buffer(constant, torch.tensor(16))
    return root


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("logit_scale"), r"1 missing \(logit_scale\)"),
        (lambda state: state.update(extra=torch.ones(1)), r"1 surplus \(extra\)"),
        (
            lambda state: state.update({"text_projection": torch.ones(2, 2)}),
            r"1 of another shape \(text_projection is \(2,",
        ),
        (lambda state: [state.pop(key) for key in sorted(state)[:9]], r"9 missing \(.*, \.\.\.\)"),
    ],
)
def test_each_kind_of_wrong_checkpoint_is_one_line(tmp_path, change, message):
    state = build_clip("demo").state_dict()
    change(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match=message) as caught:
        load_weights(build_clip("demo"), tmp_path / "w.pth", "clip (demo)")
    assert "\n" not in str(caught.value)


def test_a_truncated_checkpoint_is_one_line(tmp_path):
    torch.save(small().state_dict(), tmp_path / "w.pth")
    whole = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a readable checkpoint") as caught:
        load_weights(small(), tmp_path / "w.pth", "small")
    assert "\n" not in str(caught.value)


def test_results_depend_on_contents_not_on_where_they_lie(tmp_path):
    for name in ("a", "b"):
        save_weights(small(), tmp_path / f"{name}.safetensors", {})
    save_weights(nn.Linear(2, 2), tmp_path / "c.safetensors", {})
    bases = [result_basis(coca=CocaConfig(weights=str(tmp_path / f"{name}.safetensors"))) for name in "abc"]
    assert bases[0] == bases[1] != bases[2]


def test_results_do_not_depend_on_what_is_only_counted():
    assert result_basis(scoring=ScoringConfig(threshold=1.0)) == result_basis(scoring=ScoringConfig(threshold=1.3))
    assert result_basis(True, scoring=ScoringConfig()) != result_basis(False, scoring=ScoringConfig()), "TF32"
    assert result_basis(scoring=ScoringConfig(score_floor=0.1)) != result_basis(scoring=ScoringConfig(score_floor=0.2))
