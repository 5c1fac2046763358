"""MaskRIS computes what its release does, from its inputs to gradients and learning rates (golden/released_maskris)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from maskris_recipe import GOLDEN, NAMES, drawn, golden, load_recipe, recipe_words, untrained_model

from pseudo_ris.ris.config import MaskingConfig, ScheduleConfig, TrainConfig
from pseudo_ris.ris.models.letterbox import frame_of
from pseudo_ris.ris.models.maskris.model import IMAGENET_MEAN, IMAGENET_STD, MaskRis
from pseudo_ris.ris.models.maskris.tokenizer import BertWords
from pseudo_ris.ris.training import losses
from pseudo_ris.ris.training.masking import drawn_words, mask_words, shown_patches
from pseudo_ris.ris.training.schedule import build_optimizer, factor_at, set_learning_rate
from pseudo_ris.stages.settings import parse_config

RUNS = {"w7_224": (7, 224, torch.float64), "w12_384": (12, 384, torch.float32), "w12_448": (12, 448, torch.float64)}
"""Window, side of the images in pixels, and the type of this model's numbers. The release's are float32.

The gradients of Swin's position tables sum terms that nearly cancel: in float32 rounding alone reaches their tolerance, 1.05 of
it on a CPU without AVX-512. In float64 .5 of it is left, which is the release's own rounding.
"""
PRESET = parse_config(TrainConfig, ["--config", str(Path(__file__).parents[2] / "configs" / "maskris.yaml")])


@dataclass
class Run:
    """One training step on the golden inputs, without the update, beside what the release had.

    plain_norms: of the gradients from the ground truth alone, by the release's names; empty where they were not computed.
    """

    golden: dict[str, np.ndarray]
    maps: list[torch.Tensor]
    words: torch.Tensor
    low: torch.Tensor
    hidden_low: torch.Tensor
    full: torch.Tensor
    truth_loss: float
    prediction_loss: float
    loss: float
    plain_norms: dict[str, float]
    gradients: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def model() -> MaskRis:
    torch.set_num_threads(1)
    return untrained_model()


@pytest.fixture(scope="module")
def initial(model) -> dict[str, list[float]]:
    """Mean, population standard deviation, minimum and maximum of each parameter before any weights are loaded."""
    found = {}
    for name, parameter in model.named_parameters():
        std, mean = torch.std_mean(
            parameter.detach().double() if parameter.numel() < 1000 else parameter.detach(), correction=0
        )
        found[name] = [each.item() for each in (mean, std, *parameter.detach().aminmax())]
    return found


@pytest.fixture(scope="module", params=RUNS)
def run(request, model, initial) -> Run:
    window, side, dtype = RUNS[request.param]
    expected = dict(np.load(GOLDEN / f"{request.param}.npz"))
    load_recipe(model.float(), window)
    model.eval().to(dtype)
    images = drawn(f"images/{request.param}", (len(expected["tokens"]), 3, side, side))
    np.testing.assert_array_equal(images[:, :, 0, :4].numpy(), expected["image_first"])
    truth, hidden = (pixels_of(expected[f"{name}_cells"]) for name in ("truth", "hidden"))
    tokens, attention, hidden_tokens = (torch.from_numpy(expected[name]) for name in ("tokens", "attention", "hidden_tokens"))
    images = images.to(dtype)
    batch = {"image": images, "tokens": tokens, "attention": attention.bool(), "mask": truth.to(dtype)}
    with pytest.MonkeyPatch.context() as patch:
        if dtype == torch.float64:
            patch.setattr(torch.Tensor, "float", torch.Tensor.double)  # what the model computes in float32 in any case
        plain_norms = norms(model, batch) if request.param == "w7_224" else {}
        patch.setattr(losses, "distort", lambda *_: (images.masked_fill(hidden[:, None], 0), hidden_tokens))
        found = step(model, batch, expected, plain_norms)
    model.zero_grad(set_to_none=True)  # the gradients are kept as they are
    model.float()
    return found


def pixels_of(cells: np.ndarray) -> torch.Tensor:
    """bool [B, H, W] -> [B, 32 H, 32 W]."""
    return torch.from_numpy(cells).repeat_interleave(32, 1).repeat_interleave(32, 2)


def norms(model: MaskRis, batch: dict[str, torch.Tensor]) -> dict[str, float]:
    """Of the gradients that the plain input's half of the loss gives."""
    model.zero_grad(set_to_none=True)
    (losses.PLAIN_WEIGHT * losses.training_loss(model, batch, MaskingConfig(), [])).backward()
    return {name: norm(model.get_parameter(own).grad) for name, own in NAMES.items()}


def norm(gradient: torch.Tensor) -> float:
    return torch.linalg.vector_norm(gradient, dtype=torch.float64).item()


def step(model: MaskRis, batch: dict[str, torch.Tensor], expected: dict[str, np.ndarray], plain_norms: dict[str, float]) -> Run:
    """Runs distortion-aware learning and keeps what its modules gave."""
    model.zero_grad(set_to_none=True)
    seen = {}
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
        for name, module in (("maps", model.image), ("words", model.language.bert.encoder), ("logits", model))
    ]
    loss = losses.training_loss(model, batch, MaskingConfig(image=True, text=True), [])
    loss.backward()
    for hook in hooks:
        hook.remove()
    count, side = len(batch["image"]), batch["image"].shape[-1]
    low, hidden_low = seen["logits"][0].detach().split(count)  # beside them is a loss of the model's own
    full = model.upsampled(low, side)
    return Run(
        expected,
        [each.detach()[:count] for each in seen["maps"]],
        seen["words"].last_hidden_state.detach()[:count],
        low,
        hidden_low,
        full,
        losses.truth_loss(full, batch["mask"], model.class_weights).item(),
        losses.prediction_loss(hidden_low, low, model.class_weights).item(),
        loss.item(),
        plain_norms,
        {name: model.get_parameter(own).grad for name, own in NAMES.items()},
    )


def assert_near(own: torch.Tensor, expected: np.ndarray, atol: float, rtol: float = 1e-6) -> None:
    torch.testing.assert_close(own, torch.from_numpy(expected).to(own.dtype), atol=atol, rtol=rtol)


@pytest.mark.slow
def test_swin_s_maps(run):
    for number, own in enumerate(run.maps):
        expected = {name: run.golden[f"map{number}_{name}"] for name in ("sub", "channel_mean", "channel_std", "position_norm")}
        assert_near(own[:, ::8, ::3, ::3], expected["sub"], 4e-6)
        assert_near(own.mean((0, 2, 3)), expected["channel_mean"], 4e-6)
        assert_near(own.std((0, 2, 3), correction=0), expected["channel_std"], 4e-6)
        # float16 has 11 digits.
        assert_near(own.norm(dim=1), expected["position_norm"].astype(np.float32), 4e-6, rtol=2**-11)


@pytest.mark.slow
def test_words_and_prompts_after_bert(run):
    words, prompts = run.words.split([20, 5], dim=1)
    assert_near(words[:, :, ::4], run.golden["words_sub"], 4e-6)
    assert_near(words.norm(dim=2), run.golden["words_norm"], 4e-6)
    assert_near(prompts[:, :, ::16], run.golden["prompts_after_bert_sub"], 4e-6)


@pytest.mark.slow
def test_logits_of_the_plain_and_the_distorted_input(run):
    assert_near(run.low, run.golden["low_logits"], 1e-4)
    assert_near(run.hidden_low, run.golden["hidden_low_logits"], 1e-4)


@pytest.mark.slow
def test_predictions_at_full_size(run):
    assert_near(run.full[:, :, :6, :6], run.golden["upsampled_corner"], 1e-4)
    assert_near(run.full.softmax(1)[:, 1, ::16, ::16], run.golden["probability_grid"], 1e-4)
    predicted = run.full.argmax(1).flatten(1).numpy()
    expected = np.unpackbits(run.golden["argmax"], axis=1)
    assert predicted.shape == expected.shape
    assert (predicted != expected).mean() < 1e-4


@pytest.mark.slow
def test_both_losses(run):
    assert [run.truth_loss, run.prediction_loss] == pytest.approx(run.golden["losses"], abs=3e-6)
    assert run.loss == pytest.approx(0.5 * run.golden["losses"].sum(), abs=3e-6)


@pytest.mark.slow
def test_gradients_of_both_losses(run, request):
    expected = golden(f"gradients_{request.node.callspec.params['run']}.json")
    plain_total, total = run.golden["gradient_norm"]
    own = {name: norm(gradient) for name, gradient in run.gradients.items()}
    assert math.hypot(*own.values()) == pytest.approx(total, rel=6e-4)
    assert_norms(own, {name: both for name, (_, both) in expected.items()}, total)
    if run.plain_norms:
        assert math.hypot(*run.plain_norms.values()) == pytest.approx(plain_total, rel=6e-4)
        assert_norms(run.plain_norms, {name: plain for name, (plain, _) in expected.items()}, plain_total)
    for name, values in zip(run.golden["gradient_names"].tolist(), run.golden["gradient_values"], strict=True):
        gradient = run.gradients[name].flatten()
        assert_near(gradient[torch.arange(8) * len(gradient) // 8], values, 1e-3 * np.abs(values).max())


def assert_norms(own: dict[str, float], expected: dict[str, float], total: float) -> None:
    """Norms of parameters' gradients, of those that are not small beside that of all."""
    assert own.keys() == expected.keys()
    large = [name for name, value in expected.items() if value > 1e-3 * total]
    assert len(large) > 100
    assert {name: own[name] for name in large} == pytest.approx({name: expected[name] for name in large}, rel=6e-4)


@pytest.mark.slow
def test_initial_weights_have_the_release_s_distributions(model, initial):
    """Means and deviations of two samples of n values differ by less than five of their standard errors."""
    for name, theirs in golden("initialisation.json").items():
        if name not in NAMES:
            continue
        count = model.get_parameter(NAMES[name]).numel()
        own, expected = (without_limit(*figures, count) for figures in (initial[NAMES[name]], theirs))
        (own_mean, own_std, own_least, own_most), (mean, std, least, most) = own, expected
        if std == 0 or name.endswith("sampling_offsets.bias"):  # not drawn
            assert own == pytest.approx(expected, rel=1e-5, abs=1e-6), name  # six digits are recorded
            continue
        assert own_mean == pytest.approx(mean, abs=5 * std * math.sqrt(2 / count)), name
        assert own_std == pytest.approx(std, abs=5 * std / math.sqrt(count)), name
        if count > 1000:  # largest values: 1.7 deviations of a uniform distribution, over 3 of a normal one
            assert 0.6 < own_most / most < 1.7 and 0.6 < own_least / least < 1.7, name


def without_limit(mean: float, std: float, least: float, most: float, count: int) -> tuple[float, float, float, float]:
    """Figures without the one value -2 that rounding in trunc_normal_ (limits -2 and 2, deviation 0.02) gives now and then."""
    if least == -2 and std < 0.03:
        return mean + 2 / count, math.sqrt(std**2 - 4 / count), -most, most
    return mean, std, least, most


@pytest.mark.slow
def test_parameter_groups(model):
    schedule = PRESET.schedule
    optimizer = build_optimizer(model, schedule)
    set_learning_rate(optimizer, schedule, 0, 2 * schedule.warmup)  # where the release has the full rate
    own = {
        id(parameter): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for parameter in group["params"]
    }
    groups = golden("groups.json")
    assert NAMES.keys() < groups.keys()
    expected = {name: tuple(groups[name][1:]) for name in NAMES}
    found = {name: own[id(model.get_parameter(other))] for name, other in NAMES.items()}
    assert {name: (pytest.approx(rate), decay) for name, (rate, decay) in found.items()} == expected
    assert len(own) == len(NAMES)


@pytest.mark.parametrize("case", ["small", "script"])
def test_learning_rates(case):
    expected = golden("learning_rate.json")[case]
    config = ScheduleConfig(warmup=expected["warmup"], decay=PRESET.schedule.decay)
    factors = [factor_at(step, expected["total"], config) for step in expected["steps"]]
    assert [expected["lr"] * factor for factor in factors] == pytest.approx(expected["rate"], rel=1e-7)
    if case == "script":
        assert [PRESET.schedule.learning_rate, PRESET.schedule.warmup] == [expected["lr"], expected["warmup"]]


def test_words_are_cut_without_their_end():
    expected = golden("words.json")
    sentences = [each["sentence"] for each in expected]
    tokens, attention = recipe_words()(sentences)
    assert tokens.tolist() == [each["ids"] for each in expected]
    assert attention.long().tolist() == [each["attention"] for each in expected]
    assert not PRESET.model.keep_end
    kept = BertWords(recipe_words().pieces, 20)(sentences)[0]
    assert not torch.equal(kept, tokens), "some of these sentences are too long"


@pytest.mark.parametrize("side", [64, 224])
def test_preprocessing(side):
    data = np.load(GOLDEN / "preprocessing.npz")
    pixels, shape = data["image"], data["mask_shape"]
    mask = np.unpackbits(data["mask"])[: shape.prod()].reshape(shape).astype(bool)
    frame = frame_of("stretch", *shape, side)
    every = 7 if side == 224 else 1
    image = frame.image(pixels, np.array(IMAGENET_MEAN), np.array(IMAGENET_STD))
    np.testing.assert_allclose(image[:, ::every, ::every], data[f"image_{side}"], atol=1e-6, rtol=1e-6)
    np.testing.assert_array_equal(frame.mask(mask).flatten() > 0.5, np.unpackbits(data[f"mask_{side}"])[: side * side] > 0)


def test_counts_of_hidden_patches():
    expected = golden("masking.json")["hidden_patches"]
    for key, hidden in expected.items():
        count, share = key.split("/")
        side = math.isqrt(int(count))
        assert (~shown_patches(side, 1, float(share), 0)).sum() == hidden, key


class ReleasedIds:
    """The ids of bert-base-uncased that matter for hiding words."""

    vocabulary, mask_id, special_ids, length = 30_522, 103, (0, 100, 101, 102, 103), 20


@pytest.mark.parametrize("case", ["script", "half"])
def test_rates_of_hidden_words(case):
    expected = golden("masking.json")["words"][case]
    words, rounds = 4000, 80
    assert words * rounds == expected["words"]
    tokens = torch.full((words,), 2000)
    candidates = drawn_words(ReleasedIds(), special=PRESET.masking.draw_special)
    changed = torch.stack([mask_words(tokens, ReleasedIds(), candidates, expected["ratio"], seed) for seed in range(rounds)])
    hidden, same = changed == ReleasedIds.mask_id, changed == tokens
    replaced = changed[~hidden & ~same].double()
    for name, own in (("hidden", hidden), ("as_before", same), ("replaced", ~hidden & ~same)):
        share = expected[name]
        error = math.sqrt(2 * share * (1 - share) / own.numel())
        assert own.double().mean().item() == pytest.approx(share, abs=5 * error), name
    error = 30_522 / math.sqrt(12) * math.sqrt(2 / len(replaced))
    assert replaced.mean().item() == pytest.approx(expected["replacement_mean"], abs=5 * error)
    assert len(candidates) == ReleasedIds.vocabulary
