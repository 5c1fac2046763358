"""Which scored candidates are good enough to train on."""

from __future__ import annotations

from pseudo_ris.records import CaptionRecord, MaskCaptions


def kept_candidates(captions: MaskCaptions, threshold: float) -> list[CaptionRecord]:
    """The candidates that pass the filter, in their order (the selection rule of the released Dataset).

    Those with DoC > threshold; of the only mask of an image, whose DoC is no ratio, the better half by DoC.
    """
    if not captions.one_mask:
        return [candidate for candidate in captions.candidates if candidate.doc > threshold]
    best_first = sorted(range(len(captions.candidates)), key=lambda index: -captions.candidates[index].doc)
    better_half = set(best_first[: (len(best_first) + 1) // 2])
    return [candidate for index, candidate in enumerate(captions.candidates) if index in better_half]
