"""A checkpoint measured on the splits of a data set: tables for a person, figures for a program."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.io.device import pick_device
from pseudo_ris.io.safe_paths import check_name
from pseudo_ris.io.terminal import ProgressBar
from pseudo_ris.pairs.pair_set import TRAIN
from pseudo_ris.ris.config import DataConfig, EvaluateConfig
from pseudo_ris.ris.data.splits import split_targets, splits_of
from pseudo_ris.ris.data.targets import Target
from pseudo_ris.ris.evaluation.metrics import Scores
from pseudo_ris.ris.evaluation.predictions import PredictionFolder
from pseudo_ris.ris.evaluation.scores import Prediction, Results, SentenceScore, tally
from pseudo_ris.ris.models.checkpoints import load_model

SIZES = {"model_size": "at model size", "original": "at original size"}


Tally = Callable[[Sequence[Target], Callable[[Prediction], None]], list[SentenceScore]]
"""Scores of targets; calls the function with each prediction. See tally and tally_masks."""


def evaluate_checkpoint(config: EvaluateConfig) -> dict[str, Any]:
    """Prints a table of every split; returns their figures.

    As JSON: {"model", "dataset", "splits": {split: see Results.named}}; "model" is the checkpoint. Raises UserError: see
    load_model, split_targets and tally.
    """
    device = pick_device(config.device)
    model, trained = load_model(Path(config.checkpoint), device)
    name = f"{trained.model.name} {trained.model.size}, {model.form.input_size} pixels, from {config.checkpoint}"

    def scores(targets: Sequence[Target], note: Callable[[Prediction], None]) -> list[SentenceScore]:
        return tally(
            model,
            targets,
            batch_size=config.batch_size,
            precision=config.precision,
            device=device,
            workers=config.workers,
            predictions=note,
        )

    return {"checkpoint": config.checkpoint, **evaluate_splits(name, scores, config, trained.data)}


def evaluate_splits(name: str, scores: Tally, config: EvaluateConfig, trained: DataConfig) -> dict[str, Any]:
    """Prints a table of every split; returns {"dataset", "splits": {split: see Results.named}}.

    name: of the model, for people. trained: the data that it was trained on.
    """
    data = data_settings(config, trained)
    # All of them first: that a set is incomplete is to be known before hours of predictions.
    targets = {split: split_targets(data, split) for split in chosen_splits(config, data)}
    print(f"model: {name}")
    print(f"data set: {data.dataset}, images in {data.images}")
    results = {split: evaluate_split(scores, split, targets[split], config.predictions) for split in targets}
    return {"dataset": data.dataset, "splits": {split: found.named for split, found in results.items()}}


def data_settings(config: EvaluateConfig, trained: DataConfig) -> DataConfig:
    """Paths of the evaluation data, by default those of the training. Raises UserError when neither names a set."""
    dataset = config.dataset or trained.dataset
    if not dataset:
        raise UserError("--dataset: no training names a data set; give the one to evaluate on")
    own = {name: value for name in ("refer_root", "images") if (value := getattr(config, name))}
    # Which annotation is the usual one differs from set to set.
    split_by = config.split_by or ("" if config.dataset else trained.split_by)
    return replace(trained, dataset=dataset, split_by=split_by, **own)


def chosen_splits(config: EvaluateConfig, data: DataConfig) -> list[str]:
    """The splits of the settings, otherwise all but the training split. Raises UserError when there is none."""
    splits = list(config.splits) or [split for split in splits_of(data) if split != TRAIN]
    if not splits:
        raise UserError(f"--splits: {data.dataset} has no split but {TRAIN}; name it to evaluate on it")
    return splits


def evaluate_split(scores: Tally, split: str, targets: Sequence[Target], predictions: str) -> Results:
    """Results of one split; prints their table and writes the predictions if the settings name a folder.

    predictions: folder of all splits; "": none.
    """
    folder = PredictionFolder(_folder_of(split, predictions)) if predictions else None
    sentences = sum(len(target.sentences) for target in targets)
    with ProgressBar(split, sentences, unit="sentences", leave=False) as bar:

        def note(prediction: Prediction) -> None:
            bar.update()
            if folder:
                folder.add(prediction)

        results = Results.of(scores(targets, note))
    print("\n".join(table(split, results)), flush=True)
    if folder:
        folder.close()
        print(f"predictions: {folder.folder}")
    return results


def _folder_of(split: str, predictions: str) -> Path:
    """A split's name may come from a file and must not lead out of the folder."""
    try:
        check_name(split)
    except BadInputError as error:
        raise UserError(f"split {error}; evaluate without --predictions") from error
    return Path(predictions) / split


def table(split: str, results: Results) -> Iterator[str]:
    """Lines: all expressions of a split, then each kind, at the model's size and at the images' own."""
    groups = {"all": results, **results.by_tag}
    width = max(len(name) for name in (*SIZES.values(), *(f"  {group}" for group in groups))) + 1
    names = list(results.model_size.named)
    yield f"\n{split} ({results.model_size.count} expressions)"
    for size, title in SIZES.items():
        yield f"{title:<{width}}" + "".join(f"{name:>8}" for name in names)
        for group, found in groups.items():
            yield f"{'  ' + group:<{width}}" + _cells(getattr(found, size))


def _cells(scores: Scores) -> str:
    *shares, count = scores.named.values()
    return "".join(f"{100 * share:8.2f}" for share in shares) + f"{count:8d}"
