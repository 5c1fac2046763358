"""Stage 1: images -> pseudo masks. CutLER finds the objects, SAM draws them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from pseudo_ris.checkpoints.weights import result_basis
from pseudo_ris.config import MaskGenerationConfig
from pseudo_ris.io.device import peak_memory, pick_device
from pseudo_ris.io.files import digest
from pseudo_ris.io.images import decode_image
from pseudo_ris.masks.pipeline import draw_masks
from pseudo_ris.models.announcement import announce_models
from pseudo_ris.models.cutler.detector import Cutler
from pseudo_ris.models.offload import ModelRoom, takes_turns
from pseudo_ris.models.sam.segmenter import AutomaticSam
from pseudo_ris.records import ImageRecord
from pseudo_ris.runtime.dispatch import run_loop
from pseudo_ris.runtime.image_loop import ImageLoop
from pseudo_ris.runtime.runs import Run
from pseudo_ris.runtime.shares import Shard
from pseudo_ris.sources.fingerprints import image_fingerprints
from pseudo_ris.sources.listing import list_records
from pseudo_ris.storage.compaction.compactor import compacting
from pseudo_ris.storage.mask_store import MaskStore


def generate_masks(config: MaskGenerationConfig) -> int:
    """Runs stage 1; returns the exit code (0, or 3 when images failed). Raises UserError."""
    shard = Shard.parse(config.shard)
    records = list_records(config, Path(config.masks))
    store = MaskStore(Path(config.masks))
    with (
        store.working(shard),
        compacting(store, records, config.shard_size, shard, partial(look_of, config)) as keeper,
        Run("masks", store.folder, records, config.retry_failed, shard, keeper) as run,
    ):
        run_loop(make_masks, config, run, partial(weights_of, config))
        code = run.close()
    print(f"masks are in {store.folder}{shard.closing}")
    return code


def make_masks(config: MaskGenerationConfig, images: ImageLoop) -> None:
    """Makes the masks of the images of a run, or of those a worker is handed."""
    device = pick_device(images.device or config.device, config.allow_tf32)
    announce_models({"cutler": config.cutler, "sam": config.sam}, device)
    basis = settings_of(config)
    in_turn = takes_turns(config.residency, device, partial(weights_of, config, device), images.memory_share)
    detector, segmenter = models_in(ModelRoom(device, in_turn), config)
    store = MaskStore(Path(config.masks))

    for record in images.images():
        with images.guard(record):
            data = record.read()
            key = digest(basis, data)
            if not images.is_needed(record, key, store.is_current(record, key)):
                continue
            image = decode_image(data, record.name)
            masks = draw_masks(detector, segmenter, image, config.matching)
            store.write(record, key, masks, *image.shape[:2])
            images.finished(record)
    print(f"peak memory {peak_memory(device)}")


def models_in(room: ModelRoom, config: MaskGenerationConfig) -> tuple[Cutler, AutomaticSam]:
    """The detector and the segmenter; each is loaded when it is first used."""
    return (
        room.model(partial(Cutler.from_config, config.cutler, room.device)),
        room.model(partial(AutomaticSam.from_config, config.sam, room.device)),
    )


def weights_of(config: MaskGenerationConfig, device: torch.device) -> int:
    """Bytes of all models' weights on `device`."""
    return Cutler.weight_bytes(config.cutler, device) + AutomaticSam.weight_bytes(config.sam, device)


def settings_of(config: MaskGenerationConfig) -> str:
    """Hash of the settings and weights that all masks depend on."""
    return result_basis(config.allow_tf32, cutler=config.cutler, sam=config.sam, matching=config.matching)


def look_of(config: MaskGenerationConfig) -> Callable[[ImageRecord], bytes]:
    """What tells an image that has changed since its masks were made."""
    return image_fingerprints(config, settings_of(config))
