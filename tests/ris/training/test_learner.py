"""One step, its precision, the average of the weights and the state from which training goes on."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch
from tiny_model import TinyModel, tiny_targets

from pseudo_ris.errors import UserError
from pseudo_ris.ris.config import MaskingConfig, ModelConfig, ScheduleConfig, TrainConfig
from pseudo_ris.ris.models.build import build_model
from pseudo_ris.ris.training.batches import Batches
from pseudo_ris.ris.training.distributed import Processes
from pseudo_ris.ris.training.ema import Average
from pseudo_ris.ris.training.learner import Learner, split_batch
from pseudo_ris.ris.training.losses import training_loss

ONE = Processes(0, 1, torch.device("cpu"))
MASKING = MaskingConfig(image=True, patch=8)


def settings(rate: float = 0.05, clip_norm: float = 1.0, **others) -> TrainConfig:
    schedule = ScheduleConfig(learning_rate=rate, warmup=2, batch_size=6, clip_norm=clip_norm)
    return TrainConfig(schedule=schedule, workers=0, masking=MASKING, **others)


def losses(learner: Learner, config: TrainConfig, done: int, steps: int) -> list[float]:
    found = []
    for step, batch in enumerate(islice(Batches(tiny_targets(15), learner.model, config, ONE).after(done), steps), done):
        found.append(learner.gradients(batch).loss)
        learner.update(step)
    return found


def test_the_average_is_what_a_hand_computes():
    model = TinyModel()
    average = Average(model, decay=0.25)
    with torch.no_grad():
        model.pixels.bias.fill_(1.0)
        average.model.pixels.bias.zero_()
        model.seen.fill_(7)
    average.update(model, step=0)  # decay 1/10
    assert average.model.pixels.bias.tolist() == pytest.approx([0.9] * 4)
    average.update(model, step=1)  # 2/11
    assert average.model.pixels.bias.tolist() == pytest.approx([1 - 0.1 * 2 / 11] * 4)
    average.update(model, step=100)  # 1/4, not 101/110
    assert average.model.pixels.bias.tolist() == pytest.approx([1 - 0.1 * 2 / 11 / 4] * 4)
    assert average.model.seen == 7
    assert model.pixels.bias.requires_grad and not average.model.pixels.bias.requires_grad


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_losses_fall_in_each_precision(precision):
    config = settings(precision=precision)
    learner = Learner(TinyModel(), config, 60, ONE)
    found = losses(learner, config, 0, 60)
    assert sum(found[-5:]) < 0.8 * sum(found[:5])
    assert learner.model.precisions == {{"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)}
    assert all(parameter.dtype == torch.float32 for parameter in learner.model.parameters())


@pytest.mark.parametrize("clip_norm", [0.0, 0.01])
def test_gradients_are_clipped_to_a_norm_and_reported_before(clip_norm):
    config = settings(clip_norm=clip_norm)
    learner = Learner(TinyModel(), config, 10, ONE)
    outcome = learner.gradients(next(Batches(tiny_targets(6), learner.model, config, ONE).after(0)))
    left = torch.cat([parameter.grad.flatten() for parameter in learner.model.parameters()]).norm().item()
    assert outcome.norm > 0.01
    assert left == pytest.approx(clip_norm or outcome.norm, rel=1e-4)


@pytest.mark.parametrize("masking", [MaskingConfig(), MASKING], ids=["plain", "masked"])
@pytest.mark.parametrize("sentences", [1, 2])
def test_the_parts_of_a_batch_add_up_to_its_gradients(masking, sentences):
    """Oracle: the whole batch in one part."""
    found = []
    for parts in (1, 2, 3):
        schedule = ScheduleConfig(learning_rate=0.05, warmup=2, batch_size=6, accumulate=parts, sentences=sentences)
        config = TrainConfig(schedule=schedule, workers=0, masking=masking, precision="fp32", ema=0.0)
        learner = Learner(TinyModel(), config, 10, ONE)
        outcome = learner.gradients(next(Batches(tiny_targets(6), learner.model, config, ONE).after(0)))
        found.append((outcome.loss, outcome.norm, [each.grad for each in learner.model.parameters()]))
    for loss, norm, gradients in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-6) and norm == pytest.approx(found[0][1], rel=1e-4)
        for part, whole in zip(gradients, found[0][2], strict=True):
            # A bias's gradient is a sum over all pixels in single precision, right to 4e-5 of it.
            assert (part - whole).norm() <= 1e-4 * whole.norm()


@pytest.mark.slow
@pytest.mark.parametrize(
    "of",
    [ModelConfig(input_size=64), ModelConfig("maskris", "tiny", image_weights="none", input_size=64)],
    ids=["clip", "maskris"],
)
def test_checkpointing_keeps_less_for_the_same_gradients(of):
    """Oracle: the same step without it. Parts outside the image tower keep what they did."""
    found, kept = [], []
    for checkpointing in (False, True):
        schedule = ScheduleConfig(warmup=2, batch_size=2, checkpointing=checkpointing)
        config = TrainConfig(model=of, schedule=schedule, workers=0, masking=MASKING, precision="fp32")
        learner = Learner(build_model(of, 0), config, 10, ONE)
        names = list(learner.model.state_dict())
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda saved, to=sizes: (to.append(saved.numel()), saved)[1], lambda kept: kept
        ):
            batch = next(Batches(tiny_targets(2), learner.model, config, ONE).after(0))
            loss = training_loss(learner.model, batch, MASKING, batch["seed"].tolist())
        kept.append(sum(sizes))
        loss.backward()
        found.append((names, loss.item(), [parameter.grad for parameter in learner.model.parameters()]))
    (names, loss, gradients), (same_names, same_loss, same_gradients) = found
    assert (same_names, same_loss) == (names, loss)
    assert kept[1] < 0.7 * kept[0], kept
    for one, other in zip(gradients, same_gradients, strict=True):
        torch.testing.assert_close(other, one)


def test_checkpointing_needs_an_image_tower_that_learns():
    config = TrainConfig(schedule=ScheduleConfig(checkpointing=True))
    with pytest.raises(UserError, match=r"schedule\.checkpointing: the image tower of this model is frozen and keeps nothing"):
        Learner(TinyModel(), config, 10, ONE)


def test_features_and_owners_are_split_with_their_sentences():
    batch = {"image": (torch.arange(4.0), torch.arange(8).view(4, 2)), "owner": torch.arange(4).repeat_interleave(2)}
    batch["tokens"] = torch.arange(8)
    first, second = split_batch(batch, 2)
    assert [each.tolist() for each in second["image"]] == [[2, 3], [[4, 5], [6, 7]]]
    assert first["owner"].tolist() == second["owner"].tolist() == [0, 0, 1, 1]
    assert second["tokens"].tolist() == [4, 5, 6, 7]


def test_a_batch_that_has_no_equal_parts_is_refused():
    config = TrainConfig(schedule=ScheduleConfig(batch_size=6, accumulate=4), workers=0)
    with pytest.raises(UserError, match=r"schedule\.accumulate: 6 samples of a process cannot be computed in 4 equal parts"):
        Batches(tiny_targets(6), TinyModel(), config, ONE)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_learner_goes_on_from_its_state_bit_for_bit(precision, tmp_path):
    config = settings(precision=precision, ema=0.9)
    first = Learner(TinyModel(), config, 8, ONE)
    losses(first, config, 0, 4)
    torch.save(first.state(), tmp_path / "state.pt")
    expected = losses(first, config, 4, 4), torch.rand(3)

    state = torch.load(tmp_path / "state.pt", weights_only=True)
    second = TinyModel()
    second.load_state_dict(state["model"])
    second = Learner(second, config, 8, ONE)
    second.restore(state, tmp_path / "state.pt")
    assert losses(second, config, 4, 4) == expected[0]
    assert torch.equal(torch.rand(3), expected[1])
    for own, others in zip(second.evaluated.state_dict().values(), first.evaluated.state_dict().values(), strict=True):
        assert torch.equal(own, others)


def test_a_state_with_other_parameter_groups_is_refused():
    state = Learner(TinyModel(), settings(), 8, ONE).state()
    state["optimizer"]["param_groups"][0]["params"] = [0, 1]
    with pytest.raises(UserError, match=r"^run/last\.pt: .*optimizer.*; .*--output") as caught:
        Learner(TinyModel(), settings(), 8, ONE).restore(state, Path("run/last.pt"))
    assert "\n" not in str(caught.value)


def test_without_an_average_the_model_itself_is_evaluated():
    learner = Learner(TinyModel(), settings(ema=0.0), 8, ONE)
    assert learner.evaluated is learner.model


@pytest.mark.parametrize(
    "model",
    [
        ModelConfig(image_weights="none", input_size=32),
        ModelConfig(image_weights="none", input_size=32, adapters=True),
        ModelConfig("maskris", "tiny", image_weights="none", input_size=32),
    ],
    ids=["clip", "clip with adapters", "maskris"],
)
def test_every_parameter_has_a_gradient_however_the_input_is_masked(model):
    """Otherwise processes that train together would have to look for those that have none."""
    built = build_model(model, seed=0)
    tokens, attention = built.tokenizer(["the red ball"] * 2)
    batch = {"image": torch.rand(2, 3, 32, 32), "mask": torch.rand(2, 32, 32), "tokens": tokens, "attention": attention}
    for masking in (MaskingConfig(), MaskingConfig(image=True, patch=16), MaskingConfig(text=True, distortion_aware=False)):
        built.zero_grad(set_to_none=True)
        training_loss(built, batch, masking, [1, 2]).backward()
        trained = [(name, parameter) for name, parameter in built.named_parameters() if parameter.requires_grad]
        assert [name for name, parameter in trained if parameter.grad is None] == []
