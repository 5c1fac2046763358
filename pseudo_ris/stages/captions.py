"""Stage 2: images and their masks -> mask-expression pairs. CoCa writes candidate expressions, CLIP scores them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pseudo_ris.captions.distinctive import write_candidates
from pseudo_ris.captions.listener import HEARD_WITH
from pseudo_ris.checkpoints.weights import result_basis
from pseudo_ris.config import CaptionGenerationConfig
from pseudo_ris.distinctiveness.nouns import NounFinder, make_noun_finder, with_noun_finder
from pseudo_ris.distinctiveness.score import score_candidates
from pseudo_ris.errors import UserError
from pseudo_ris.io.device import peak_memory, pick_device
from pseudo_ris.io.files import digest
from pseudo_ris.io.images import decode_image
from pseudo_ris.models.announcement import announce_models
from pseudo_ris.models.clip.scorer import ClipScorer
from pseudo_ris.models.coca.captioner import CocaCaptioner
from pseudo_ris.models.offload import ModelRoom, takes_turns
from pseudo_ris.pairs.assembly import write_pairs
from pseudo_ris.records import ImageRecord, MaskCaptions
from pseudo_ris.runtime.dispatch import run_loop
from pseudo_ris.runtime.image_loop import ImageLoop
from pseudo_ris.runtime.runs import Run
from pseudo_ris.runtime.shares import Shard
from pseudo_ris.sources.fingerprints import image_and_mask_fingerprints
from pseudo_ris.sources.listing import list_records, open_masks, reading_masks
from pseudo_ris.storage.caption_parts import PartStore
from pseudo_ris.storage.compaction.compactor import compacting


def generate_pairs(config: CaptionGenerationConfig) -> int:
    """Runs stage 2; returns the exit code (0, or 3 when images failed). Raises UserError."""
    config = replace(config, scoring=with_noun_finder(config.scoring))
    shard = Shard.parse(config.shard)
    records = list_records(config, Path(config.masks))
    parts = PartStore(Path(config.output), config.name)
    if parts.output.resolve() == Path(config.masks).resolve():
        raise UserError(f"--output {parts.output}: holds the masks; give another folder")
    with (
        reading_masks(config),
        parts.working(shard),
        compacting(parts, records, config.shard_size, shard, partial(look_of, config)) as keeper,
        Run("expressions", parts.output, records, config.retry_failed, shard, keeper) as run,
    ):
        run_loop(write_expressions, config, run, partial(weights_of, config))
        code = run.close()
        if shard.is_whole:
            put_together(config, parts, run)
        else:
            print(f"parts are in {parts.folder}{shard.closing}")
    return code


def write_expressions(config: CaptionGenerationConfig, images: ImageLoop) -> None:
    """Makes the parts of the images of a run, or of those a worker is handed."""
    device = pick_device(images.device or config.device, config.allow_tf32)
    announce_models({"coca": config.coca, "clip": config.clip}, device)
    find_noun = make_noun_finder(config.scoring)
    print(f"head nouns: {find_noun.name}")
    basis = settings_of(config)
    in_turn = takes_turns(config.residency, device, partial(weights_of, config, device), images.memory_share)
    captioner, scorer = models_in(ModelRoom(device, in_turn), config)
    mask_store, parts = open_masks(config), PartStore(Path(config.output), config.name)

    for record in images.images():
        with images.guard(record):
            data = record.read()
            stored = mask_store.read(record)
            key = digest(basis, record.image_id, data, *stored.flat())
            if not images.is_needed(record, key, parts.is_current(record, key)):
                continue
            image = decode_image(data, record.name)
            seg_ids, masks = stored.decode(*image.shape[:2])
            captions = caption_masks(captioner, scorer, find_noun, image, masks, seg_ids, record.image_id, config)
            parts.write(record, key, captions)
            images.finished(record)
    print(f"peak memory {peak_memory(device)}")


def models_in(room: ModelRoom, config: CaptionGenerationConfig) -> tuple[CocaCaptioner, ClipScorer]:
    """The captioner and the scorer; each is loaded when it is first used."""
    return (
        room.model(partial(CocaCaptioner.from_config, config.coca, room.device)),
        room.model(partial(ClipScorer.from_config, config.clip, room.device)),
    )


def caption_masks(
    captioner: CocaCaptioner,
    scorer: ClipScorer,
    find_noun: NounFinder,
    image: np.ndarray,
    masks: np.ndarray,
    seg_ids: list[int],
    image_id: str,
    config: CaptionGenerationConfig,
) -> list[MaskCaptions]:
    """Stage 2 for one image (RGB uint8 [H, W, 3]): the scored candidates of its masks, bool [N, H, W], in their order.

    Raises what write_candidates and score_candidates raise.
    """
    candidates = write_candidates(captioner, image, masks, seg_ids, image_id, config.decoding, config.crops, config.listener)
    return score_candidates(scorer, find_noun, image, masks, seg_ids, candidates, config.scoring, config.crops, config.places)


def weights_of(config: CaptionGenerationConfig, device: torch.device) -> int:
    """Bytes of all models' weights on `device`."""
    return CocaCaptioner.weight_bytes(config.coca, device) + ClipScorer.weight_bytes(config.clip, device)


def settings_of(config: CaptionGenerationConfig) -> str:
    """Hash of the settings and weights that all expressions depend on."""
    basis = result_basis(
        config.allow_tf32,
        coca=config.coca,
        clip=config.clip,
        crops=config.crops,
        decoding=config.decoding,
        listener=config.listener,
        places=config.places,
        scoring=config.scoring,
    )
    return digest(basis, HEARD_WITH) if config.listener.rivals else basis


def look_of(config: CaptionGenerationConfig) -> Callable[[ImageRecord], bytes]:
    """What tells an image that has changed, or its masks, since its expressions were made."""
    return image_and_mask_fingerprints(config, settings_of(config))


def put_together(config: CaptionGenerationConfig, parts: PartStore, run: Run) -> None:
    """Makes the files of all parts that are today's."""
    totals = write_pairs(parts.read_all(run.current()), parts.output, config.name, config.scoring)
    print(
        f"{totals.candidates} candidates for {totals.masks} masks of {totals.images} images "
        f"({totals.images_without_masks} without masks)\n"
        f"{totals.kept} candidates of {totals.masks_with_kept} masks are kept ({config.scoring.rule})\n"
        f"pairs are in {parts.output / (config.name + '.csv')}"
    )
