"""The distinctiveness filter: how much better a candidate fits its own mask than the image's other masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pseudo_ris.captions.crops import cut_crops
from pseudo_ris.config import CropConfig, PlaceConfig, ScoringConfig
from pseudo_ris.distinctiveness.groups import NamedMask
from pseudo_ris.distinctiveness.naming import Naming, word_agreement
from pseudo_ris.distinctiveness.nouns import NounFinder, noun_prompt
from pseudo_ris.distinctiveness.places import place_candidates
from pseudo_ris.errors import BadInputError
from pseudo_ris.models.clip.scorer import ClipScorer
from pseudo_ris.records import Candidate, CaptionRecord, MaskCaptions

PROMPT_CROPS = "masked"
SENTENCE_CROPS = "image_1.2"
NO_PLACES = PlaceConfig(forms=())


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of T candidates; float64 [T] but for `rival`, int64 [T].

    masked, crop: the CLIP logits m_i and b_i as CLIP gave them. uniqueness, correctness, doc: see distinctiveness_scores.
    rival: row of the mask that comes nearest, -1 when there is no other mask.
    """

    masked: np.ndarray
    crop: np.ndarray
    uniqueness: np.ndarray
    correctness: np.ndarray
    doc: np.ndarray
    rival: np.ndarray


def distinctiveness_scores(masked_logits: np.ndarray, crop_logits: np.ndarray, owner: np.ndarray, score_floor: float) -> Scores:
    """Uniqueness, correctness and DoC of candidates (Pseudo-RIS, sec. 3.3).

    With i the owner of a candidate and j over the other masks: uniqueness = b_i / max_j b_j, correctness = m_i,
    DoC = (m_i b_i) / max_j (m_j b_j). Of rivals with equal products the first is named. With one mask there is nothing
    to compare: DoC = m_i, uniqueness = 1.

    Args:
        masked_logits: m [N, T], CLIP logits of each masked crop and each candidate's head-noun prompt.
        crop_logits: b [N, T], CLIP logits of each image crop and each candidate.
        owner: int [T], the candidate's own mask, in 0 .. N - 1.
        score_floor: m and b are raised to at least this before anything is computed. A ratio ranks by fit only while its
            terms are positive: of two negative logits the worse fit has the larger product. CLIP's logits are nearly
            always positive, so a small bound changes those cases only. 0 bounds nothing, as the release.

    Raises BadInputError when a logit is not finite, or, possible without a floor only, a score is not.
    """
    m = np.asarray(masked_logits, dtype=np.float64)
    b = np.asarray(crop_logits, dtype=np.float64)
    if not (np.isfinite(m).all() and np.isfinite(b).all()):
        raise BadInputError("CLIP gives logits that are not finite; check the weights and the image")
    candidates = np.arange(len(owner))
    raw_masked, raw_crop = m[owner, candidates], b[owner, candidates]
    if score_floor > 0:
        m, b = np.maximum(m, score_floor), np.maximum(b, score_floor)
    product = m * b
    correctness = m[owner, candidates]
    if len(m) < 2:
        ones, nobody = np.ones(len(owner)), np.full(len(owner), -1)
        return Scores(raw_masked, raw_crop, ones, correctness, correctness.copy(), nobody)
    own = np.arange(len(m))[:, None] == owner[None, :]
    rival_product = np.where(own, -np.inf, product)
    with np.errstate(divide="ignore", invalid="ignore"):
        uniqueness = b[owner, candidates] / np.where(own, -np.inf, b).max(axis=0)
        doc = product[owner, candidates] / rival_product.max(axis=0)
    if not (np.isfinite(uniqueness).all() and np.isfinite(doc).all()):
        raise BadInputError("a rival's CLIP logit is 0, so DoC is undefined; set scoring.score_floor above 0")
    return Scores(raw_masked, raw_crop, uniqueness, correctness, doc, rival_product.argmax(axis=0))


def score_candidates(
    scorer: ClipScorer,
    noun_finder: NounFinder,
    image: np.ndarray,
    masks: np.ndarray,
    seg_ids: list[int],
    candidates: list[list[Candidate]],
    config: ScoringConfig,
    crops: CropConfig,
    places: PlaceConfig = NO_PLACES,
) -> list[MaskCaptions]:
    """Scores every candidate of one image against all its masks, and adds expressions with place words.

    Args:
        image: RGB uint8 [H, W, 3].
        masks: bool [N, H, W], none of them empty.
        seg_ids: N file numbers of the masks, unique.
        candidates: for each mask its candidates.
        places: which place words are written; by default none.

    Returns one entry a mask, in the order given. Raises BadInputError as distinctiveness_scores does.
    """
    if not len(masks) == len(seg_ids) == len(candidates):
        raise ValueError(f"{len(masks)} masks, {len(seg_ids)} seg ids and {len(candidates)} lists of candidates")
    if not len(masks):
        return []
    nouns = _nouns_of(noun_finder, candidates)
    prompts = [noun_prompt(noun) for own in nouns for noun in own]
    masked_logits = _logits(scorer, image, masks, PROMPT_CROPS, crops, prompts)
    naming = Naming.of(nouns, masked_logits)
    texts = ([candidate.text for candidate in own] for own in candidates)
    named = [NamedMask(row, tuple(said), tuple(own), ()) for row, (said, own) in enumerate(zip(texts, nouns, strict=True))]
    placed = place_candidates(naming, masks, places, named)
    scored = [[*own, *added] for own, added in zip(candidates, placed, strict=True)]
    masked_logits = masked_logits[:, _noun_columns(nouns, placed)]
    nouns = [[*own, *(candidate.noun for candidate in added)] for own, added in zip(nouns, placed, strict=True)]
    crop_logits = _logits(scorer, image, masks, SENTENCE_CROPS, crops, [candidate.shown for own in scored for candidate in own])
    owner = np.repeat(np.arange(len(masks)), [len(own) for own in scored])
    scores = distinctiveness_scores(masked_logits, crop_logits, owner, config.score_floor)
    return _records(scored, nouns, naming, scores, seg_ids)


def _nouns_of(noun_finder: NounFinder, candidates: Sequence[Sequence[Candidate]]) -> list[list[str]]:
    """The head noun of each candidate; equal texts are looked at once."""
    distinct = list(dict.fromkeys(candidate.text for own in candidates for candidate in own))
    noun_of = dict(zip(distinct, noun_finder(distinct), strict=True))
    return [[noun_of[candidate.text] for candidate in own] for own in candidates]


def _noun_columns(nouns: Sequence[Sequence[str]], placed: Sequence[Sequence[Candidate]]) -> list[int]:
    """Where the noun of each candidate is among `nouns`, mask by mask; expressions with place words come after a mask's others.

    nouns: of each mask's sampled candidates. Those with place words use the same nouns, in lower case.
    """
    first: dict[str, int] = {}
    for place, noun in enumerate(noun for own in nouns for noun in own):
        first.setdefault(noun.lower(), place)
    columns: list[int] = []
    begun = 0
    for own, added in zip(nouns, placed, strict=True):
        columns += [*range(begun, begun + len(own)), *(first[candidate.noun] for candidate in added)]
        begun += len(own)
    return columns


def _records(
    candidates: Sequence[Sequence[Candidate]],
    nouns: Sequence[Sequence[str]],
    naming: Naming,
    scores: Scores,
    seg_ids: Sequence[int],
) -> list[MaskCaptions]:
    """The scored candidates of each mask. scores: of all candidates, mask by mask."""
    columns = {noun: column for column, noun in enumerate(naming.nouns)}
    places = iter(range(len(scores.doc)))
    found = []
    for mask, (seg_id, own, own_nouns) in enumerate(zip(seg_ids, candidates, nouns, strict=True)):
        sampled = [candidate.text for candidate in own if not candidate.noun]
        words = word_agreement(sampled, own_nouns[: len(sampled)])
        records = []
        for place, candidate in enumerate(own):
            t, column = next(places), columns[own_nouns[place].lower()]
            records.append(
                CaptionRecord(
                    text=candidate.text,
                    crop_set=candidate.crop_set,
                    strategy=candidate.strategy,
                    noun=own_nouns[place],
                    masked_score=float(scores.masked[t]),
                    crop_score=float(scores.crop[t]),
                    uniqueness=float(scores.uniqueness[t]),
                    correctness=float(scores.correctness[t]),
                    doc=float(scores.doc[t]),
                    rival=_seg_id(seg_ids, int(scores.rival[t])),
                    agreement=float(naming.agreement[mask, column]),
                    word_agreement=1.0 if candidate.noun else words[place],
                    recognition=float(naming.recognition[mask, column]),
                    listener=candidate.listener,
                    listener_rival=_seg_id(seg_ids, candidate.listener_rival),
                    confidence=candidate.confidence,
                )
            )
        found.append(MaskCaptions(seg_id, len(seg_ids) == 1, tuple(records)))
    return found


def _seg_id(seg_ids: Sequence[int], row: int) -> int | None:
    return seg_ids[row] if row >= 0 else None


def _logits(
    scorer: ClipScorer, image: np.ndarray, masks: np.ndarray, crop_set: str, crops: CropConfig, texts: list[str]
) -> np.ndarray:
    """CLIP logits of every mask's crop and every text, float32 [N, T]."""
    pixels = cut_crops(image, masks, crop_set, scorer.image_size, crops)
    return scorer.logits(scorer.embed_images(pixels), scorer.embed_texts(texts)).cpu().numpy()
