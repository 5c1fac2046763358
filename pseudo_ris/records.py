"""The data that flows through the project. Read this file first.

Conventions everywhere: images are RGB uint8 arrays [H, W, 3]; masks are bool arrays [H, W]; boxes are (x0, y0, x1, y1)
in pixels of the image, half-open (a box covers columns x0 .. x1 - 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One input image.

    image_id: the number an annotation file or LMDB gives; otherwise the COCO number when the file name is COCO's; otherwise
        the path relative to the image folder without suffix and with `/` written as `__`. Names the mask folder, the caption
        part and the CSV rows.
    name: path relative to the image folder, with `/`; of an image in an LMDB, its name there.
    read: gives the encoded image file as it is; raises BadInputError. It pickles, and opens nothing before it is called, so
        that any number of records may be held and handed to other processes.
    """

    image_id: str
    name: str
    read: Callable[[], bytes] = field(compare=False, repr=False)


@dataclass(frozen=True, eq=False)
class MaskRecord:
    """One pseudo mask of an image; `seg_id` is the number in its file name `<masks>/<image_id>/<seg_id>.png`.

    Records are equal only to themselves: arrays have no single truth value and no hash.

    score: CutLER's confidence in [0, 1]. source: who drew the pixels, "sam" or, where no SAM mask overlaps, "cutler".
    """

    seg_id: int
    mask: np.ndarray
    box: Box
    score: float
    source: str


@dataclass(frozen=True)
class Candidate:
    """One candidate expression of a mask, before it is scored.

    crop_set: "masked", "image_1.0", "image_1.1" or "image_1.2". strategy: "beam", "top_k_5", ..., "top_p_0.8". An expression
    with place words has "image" and "place" (see distinctiveness.places). listener: probability that the text means this mask
    and not one of its rivals, as the captioner hears it (captions.listener). listener_rival: row of the likeliest rival, -1
    without one. confidence: probability of the text's least likely token under its crop. noun: the head noun
    where it is known, else "".
    """

    text: str
    crop_set: str
    strategy: str
    listener: float = 1.0
    listener_rival: int = -1
    confidence: float = 1.0
    noun: str = ""

    @property
    def shown(self) -> str:
        """What of the text a crop can show: all of it, but for place words."""
        return f"the {self.noun}" if self.noun else self.text


@dataclass(frozen=True)
class CaptionRecord:
    """One scored candidate expression (Pseudo-RIS, sec. 3.3).

    noun: head noun of `text`. masked_score: m_i, CLIP logit of the masked crop and the head-noun prompt.
    crop_score: b_i, CLIP logit of the image crop at margin 1.2 and `text`. uniqueness: b_i / max_j b_j.
    correctness: m_i. doc: (m_i b_i) / max_j (m_j b_j). rival: seg_id of the mask that attains the last maximum,
    or None when the image has one mask only (then doc = m_i and uniqueness = 1).

    agreement: share of the mask's candidates that have the same head noun. word_agreement: the smallest share of them that say
    one of the text's other content words; 1 when it has none. recognition: exp(m - largest m of the mask over the image's head
    nouns), 1 when CLIP prefers this noun. listener: probability that the text means this mask and not one of its rivals;
    listener_rival: seg_id of the likeliest one. confidence: probability of the text's least likely token under its crop.
    Of a "place" expression masked_score, crop_score, uniqueness, correctness and doc are those of its words without the place,
    and listener and confidence are 1.
    """

    text: str
    crop_set: str
    strategy: str
    noun: str
    masked_score: float
    crop_score: float
    uniqueness: float
    correctness: float
    doc: float
    rival: int | None
    agreement: float = 1.0
    word_agreement: float = 1.0
    recognition: float = 1.0
    listener: float = 1.0
    listener_rival: int | None = None
    confidence: float = 1.0


@dataclass(frozen=True)
class MaskCaptions:
    """All scored candidates of one mask, in the order of `captions.crops.CROP_SETS` x strategies."""

    seg_id: int
    one_mask: bool
    candidates: tuple[CaptionRecord, ...]
