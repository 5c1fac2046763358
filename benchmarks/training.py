"""What it saves to run the image tower once an image, in evaluation and in training.

    python benchmarks/training.py                       all demo sizes, drawn scenes with 3 sentences an object
    python benchmarks/training.py --models clip --scenes 4

The reference, in the same process: each object's image is read by itself and the image tower runs for each sentence.
Evaluation is timed over all scenes with reading and scoring, training over steps of `--images` images with `--sentences`
sentences each, the update included. The image tower of `sam` is frozen: in training its features are kept on disk, in the
reference they are not. CPU time of one thread.

The last line is one JSON object: the ratios of each model, and as evaluation_ratio and training_ratio those of the first one.
`loss_difference` is the relative difference of the first batch's losses (maps on disk are in half precision), `equal` says that
at most one predicted pixel in 100,000 differs, `peak_bytes` is the process's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import peak_bytes, print_json, print_table

from pseudo_ris.lab.refer_world import DATASET, draw_world, write_world
from pseudo_ris.ris.config import DataConfig, ModelConfig, ScheduleConfig, TrainConfig
from pseudo_ris.ris.data.samples import Sample
from pseudo_ris.ris.data.splits import split_targets
from pseudo_ris.ris.data.targets import Target
from pseudo_ris.ris.evaluation.scores import Prediction, tally
from pseudo_ris.ris.models.base import ImageFeatures, RisModel
from pseudo_ris.ris.models.build import build_model
from pseudo_ris.ris.training.batches import Batches
from pseudo_ris.ris.training.distributed import Processes
from pseudo_ris.ris.training.feature_cache import FeatureCache
from pseudo_ris.ris.training.learner import Learner

CPU = torch.device("cpu")
SENTENCES = 3
MODELS = {
    "clip": ModelConfig(),
    "maskris": ModelConfig("maskris", "tiny", image_weights="none", input_size=224),
    "sam": ModelConfig("sam", image_weights="demo", text_weights="demo", detector_weights="demo", input_size=256),
}


class OneImageASentence(RisModel):
    """The reference: the image tower runs for each sentence."""

    def __init__(self, model: RisModel) -> None:
        super().__init__()
        self.model, self.form, self.tokenizer = model, model.form, model.tokenizer

    @classmethod
    def from_config(cls, config: ModelConfig) -> OneImageASentence:
        return cls(build_model(config, 0))

    def image_features(self, images: torch.Tensor) -> ImageFeatures:
        return (images,)

    def from_features(
        self,
        features: ImageFeatures,
        tokens: torch.Tensor,
        attention: torch.Tensor,
        owners: torch.Tensor | None = None,
    ) -> torch.Tensor:
        images = features[0] if owners is None else features[0][owners]
        return self.model(images, tokens, attention)

    def upsampled(self, logits: torch.Tensor, side: int) -> torch.Tensor:
        return self.model.upsampled(logits, side)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return self.model.parameter_groups()


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds, and what `work` gives."""
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def evaluation_ratio(model: RisModel, targets: list[Target]) -> tuple[float, float, bool]:
    """Seconds of the reference and of today's evaluation, and whether they predict the same."""
    alone = [replace(target, image="") for target in targets]
    found: dict[str, list[Prediction]] = {"before": [], "now": []}

    def evaluate(name: str, evaluated: RisModel, given: list[Target]) -> None:
        tally(evaluated, given, batch_size=16, precision="fp32", device=CPU, predictions=found[name].append)

    before, _ = timed(lambda: evaluate("before", OneImageASentence(model), alone))
    now, _ = timed(lambda: evaluate("now", model, targets))
    masks = {(each.number, each.sentence): each.mask for each in found["before"]}
    pairs = [(masks[each.number, each.sentence], each.mask) for each in found["now"]]
    differing = sum(int((first != second).sum()) for first, second in pairs)
    return before, now, differing <= 1e-5 * sum(first.size for first, _ in pairs)


def training_ratio(config: TrainConfig, targets: list[Target], steps: int, folder: Path) -> tuple[float, float, float]:
    """Seconds a step of the reference and of today's training, and the relative difference of the first losses."""
    here = Processes(0, 1, CPU)
    model = build_model(config.model, 0)
    kept = FeatureCache(folder, model).fill(targets, here) if model.frozen_images else []
    plain, grouped = (iter(Batches(targets, model, config, here, files).after(0)) for files in ([], kept))
    learners = [Learner(build_model(config.model, 0), config, steps + 2, here) for _ in range(2)]
    before = now = 0.0
    for step in range(steps + 1):
        torch.manual_seed(step)
        spent, first = timed(partial(one_step, learners[0], plain, step, True))
        torch.manual_seed(step)
        spent_now, second = timed(partial(one_step, learners[1], grouped, step, False))
        if not step:  # it warms up, and both have the same weights
            difference = abs(first - second) / first
            continue
        before, now = before + spent, now + spent_now
    return before / steps, now / steps, difference


def one_step(learner: Learner, source: Any, step: int, apart: bool) -> float:
    """A step on the next batch; its loss. apart: each sentence gets an image of its own."""
    batch = next(source)
    outcome = learner.gradients(taken_apart(batch) if apart else batch)
    learner.update(step)
    return outcome.loss


def taken_apart(batch: Sample) -> Sample:
    """The same sentences, each with a copy of its image."""
    rest = {name: values for name, values in batch.items() if name not in ("image", "owner")}
    return {**rest, "image": batch["image"][batch["owner"]]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--images", type=int, default=2, help="of a training step")
    parser.add_argument("--sentences", type=int, default=9, help="of an image, in training")
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_world(draw_world({"train": options.scenes, "val": 1, "test": 1}, 0, progress=False), root / "world")
        world = DataConfig(dataset=DATASET, refer_root=str(root / "world"), images=str(root / "world" / "images"))
        targets = [
            replace(each, sentences=(each.sentences * SENTENCES)[:SENTENCES], tags=()) for each in split_targets(world, "train")
        ]
        for name in options.models:
            schedule = ScheduleConfig(batch_size=options.images, sentences=options.sentences, warmup=0)
            config = TrainConfig(model=MODELS[name], data=world, schedule=schedule, precision="fp32", ema=0.0)
            before, now, equal = evaluation_ratio(build_model(config.model, 0), targets)
            step_before, step_now, difference = training_ratio(config, targets, options.steps, root / "features")
            rows.append((name, before, now, before / now, step_before, step_now, step_before / step_now))
            figures |= {f"{name}_evaluation_ratio": before / now, f"{name}_training_ratio": step_before / step_now}
            figures |= {f"{name}_loss_difference": difference, f"{name}_equal": equal}
    print(f"{len(targets)} objects of {options.scenes} images, {SENTENCES} sentences an object; seconds of CPU time")
    print_table(("model", "evaluation, before", "now", "ratio", "step, before", "now", "ratio"), rows)
    first = options.models[0]
    main_figures = {f"{kind}_ratio": figures[f"{first}_{kind}_ratio"] for kind in ("evaluation", "training")}
    print_json({**main_figures, **figures, "peak_bytes": peak_bytes()})


if __name__ == "__main__":
    main()
