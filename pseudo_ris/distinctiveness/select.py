"""Which scored candidates are good enough to train on."""

from __future__ import annotations

from typing import Literal

from pseudo_ris.records import CaptionRecord, MaskCaptions


def kept_candidates(
    captions: MaskCaptions, threshold: float, fallback: Literal["drop", "unfiltered"] = "drop"
) -> list[CaptionRecord]:
    """The candidates that pass the filter, in their order.

    Those with DoC > threshold; of the only mask of an image, whose DoC is no ratio, the better half by DoC. When none passes,
    "drop" gives none and "unfiltered" all, as the released Dataset does (algorithm: training-time selection).
    """
    if not captions.one_mask:
        passing = [candidate for candidate in captions.candidates if candidate.doc > threshold]
        return list(captions.candidates) if fallback == "unfiltered" and not passing else passing
    best_first = sorted(range(len(captions.candidates)), key=lambda index: -captions.candidates[index].doc)
    better_half = set(best_first[: (len(best_first) + 1) // 2])
    return [candidate for index, candidate in enumerate(captions.candidates) if index in better_half]
