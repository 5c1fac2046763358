"""A set of mask-expression pairs as a notebook uses it: look at it, select, export."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image

from pseudo_ris.config import ScoringConfig
from pseudo_ris.errors import BadInputError, UserError, nearest
from pseudo_ris.formats.registry import DATASET, FORMATS, Totals, Writing, check_existing, leaves_image_files, write_verified
from pseudo_ris.io.files import require_file_place, write_atomic
from pseudo_ris.io.images import decode_image, require_outside
from pseudo_ris.pairs.candidate_table import CandidateTable, read_table
from pseudo_ris.pairs.csv_pairs import pair_images, read_mask
from pseudo_ris.pairs.files import writing_pairs
from pseudo_ris.pairs.pair_set import PairImage, with_splits
from pseudo_ris.pairs.pictures import Folders, Pictures
from pseudo_ris.pairs.rows import LIST_COLUMNS, PAPER_COLUMNS, Row
from pseudo_ris.pairs.selection_rules import PRESETS, Selection, SelectionRules, Step
from pseudo_ris.visual.contact_sheet import MOST_LINES, TILE, draw_tile, entries_of
from pseudo_ris.visual.drawing import draw_sheet

SIDE = 640
"""Pixels of the longer side of a picture of one image."""
SHOWN, COLUMNS = 8, 4
SOURCES_SUFFIX = ".sources.json"
"""Ending of the file beside a CSV that says where its images and masks are."""
NO_THRESHOLD = float("-inf")


@dataclass(frozen=True, eq=False)
class MaskExpressions:
    """One mask of a set with its expressions, in the order of the CSV.

    image_name: path relative to the folder of images. image_id, seg_id: see records. doc: float64 [N], of each expression.
    """

    image_name: str
    image_id: str
    seg_id: int
    expressions: tuple[str, ...]
    doc: np.ndarray
    _load: Callable[[str], np.ndarray]
    _pictures: Pictures

    @property
    def image(self) -> np.ndarray:
        """The image, RGB uint8 [H, W, 3]. Raises UserError when it cannot be read."""
        return self._load(self.image_name)

    @property
    def mask(self) -> np.ndarray:
        """The mask, bool [H, W]. Raises UserError when it cannot be read or has another size than the image."""
        try:
            return read_mask(self._pictures, self.image_id, self.seg_id, *self.image.shape[:2])
        except BadInputError as error:
            raise UserError(f"image {self.image_name!r:.80}: {error}") from error

    @property
    def best(self) -> str:
        """The expression with the highest DoC, the first of equals."""
        return self.expressions[int(np.argmax(self.doc))]

    def __repr__(self) -> str:
        count = len(self.expressions)
        return f"MaskExpressions({self.image_name!r}, seg_id={self.seg_id}, {count} expressions, best {self.best!r})"


class PairSet(Sequence[MaskExpressions]):
    """Mask-expression pairs with their images and masks: a sequence of masks, each with the expressions that are left to it.

    `Pipeline` makes one from an image, `generate` and `read_pairs` from a folder. A set never changes: `select` and slices give
    new ones. In a notebook a set shows itself as a picture.

    Args:
        table: all candidates.
        pictures: gives the images and masks.
        source: what an error calls the place the pairs come from.
        kept: which candidates are in the set, bool [C]; None for all.
        threshold: of DoC; a picture marks masks that have no expression above it.
        steps: the counts after each rule of the selection that made the set.

    Examples:
        >>> pairs = pr.read_pairs("out/pairs")
        >>> len(pairs)  # masks that have an expression
        2
        >>> pairs[0].mask.dtype, pairs[0].mask.shape, pairs[0].image.shape, len(pairs[0].expressions)
        (dtype('bool'), (256, 256), (256, 256, 3), 46)
        >>> best = pairs.select(top_k=5)
        >>> print(best.export("refer", "out/refer"))
        1 images, 2 objects, 14 sentences
    """

    def __init__(
        self,
        table: CandidateTable,
        pictures: Pictures,
        source: str,
        kept: np.ndarray | None = None,
        threshold: float = ScoringConfig().threshold,
        steps: Sequence[Step] = (),
    ) -> None:
        self.table = table
        self.kept = np.ones(len(table.row), bool) if kept is None else kept
        self.steps = tuple(steps)
        self._pictures, self._source, self._threshold = pictures, source, threshold
        self._decoded: tuple[str, np.ndarray] | None = None

    def __len__(self) -> int:
        """Masks that have an expression."""
        return len(self._masks)

    @overload
    def __getitem__(self, index: int) -> MaskExpressions: ...
    @overload
    def __getitem__(self, index: slice) -> PairSet: ...
    def __getitem__(self, index: int | slice) -> MaskExpressions | PairSet:
        if isinstance(index, slice):
            return self._with(self.kept & np.isin(self.table.row, self._masks[index]), self._threshold, self.steps)
        row = self._masks[index]
        start, stop = np.searchsorted(self.table.row, [row, row + 1])
        left = start + np.flatnonzero(self.kept[start:stop])
        return MaskExpressions(
            self._image_names[row],
            self.table.image_id.values[self.table.image_id.codes[row]],
            int(self.table.seg_id[row]),
            tuple(self.table.text.values[code] for code in self.table.text.codes[left]),
            self.table.doc[left],
            self._load,
            self._pictures,
        )

    def rows(self) -> Iterator[Row]:
        """The set as rows of a pairs CSV, dicts with all scores; pandas.DataFrame takes them as they are."""
        for index, row in enumerate(self.table.rows(self.kept)):
            yield {"index": index, "num_sent": len(row["doc"]), **row}

    def by_image(self) -> Iterator[PairSet]:
        """The set image by image, in the order of the CSV."""
        codes = self.table.image_name.codes
        for code in dict.fromkeys(codes[self._masks].tolist()):
            yield self._with(self.kept & (codes == code)[self.table.row], self._threshold, self.steps)

    def select(self, preset: str = "recommended", **rules: Any) -> PairSet:
        """The pairs that pass a preset's rules and those given here, as `pseudo-ris select` chooses them.

        Args:
            preset: "recommended" or "paper".
            rules: fields of SelectionRules, which win over the preset's; None switches a rule off. For example listener=0.95,
                doc=1.1 (DoC must be greater), places="drop", top_k=5 (the best five of a mask), min_area=0.01 (share of the
                image), ambiguous="drop".

        Returns a new set; its `steps` say what each rule left.
        Raises UserError when a preset or rule is unknown, a value does not fit, or the pairs lack what a rule needs.

        Examples:
            >>> best = pr.read_pairs("out/pairs").select(places="drop", top_k=5)
            >>> max(len(mask.expressions) for mask in best)
            5
        """
        _require_known("preset", preset, PRESETS)
        known = [rule.name for rule in dataclasses.fields(SelectionRules)]
        for rule in rules:
            _require_known("rule", rule, known)
        chosen = dataclasses.replace(PRESETS[preset], **rules)
        selection = Selection(self.table, self.kept)
        areas = None
        if chosen.needs_areas:
            areas = self._pictures.area_shares(self.table.image_id.strings().tolist(), self.table.seg_id.tolist())
        selection.apply(chosen, areas)
        return self._with(selection.kept, NO_THRESHOLD, selection.steps)

    def export(
        self,
        to: str,
        out: str | Path,
        *,
        dataset: str = DATASET,
        copy_images: bool = False,
        val_share: float = 0.0,
        seed: int = 0,
    ) -> Totals:
        """Writes all pairs of the set in a format that trainers read, reads them back and compares.

        A set that is at `out` already is only compared.

        Args:
            to: a format of `pseudo-ris export`: refer, grefcoco, etris, lmdb, lmdb-pickle, coco, parquet or webdataset.
            out: file or folder to write.
            dataset: name of the set, in formats that have one.
            copy_images: the images too, into `out`/images, where the format has no place for them.
            val_share: share of the images whose split is "val"; the others' is "train".
            seed: of the split; an image's split depends on seed and id only.

        Returns how many images, objects and sentences were written.
        Raises UserError when the format is unknown, something else is at `out`, or an image or mask cannot be read.
        """
        _require_known("format", to, FORMATS)
        how, out = Writing(dataset, copy_images), Path(out)
        if isinstance(self._pictures, Folders) and leaves_image_files(to, how):
            require_outside(out, self._pictures.images, "out")

        def source() -> Iterable[PairImage]:
            return with_splits(pair_images(self.rows(), self._pictures, None, self._source), val_share, seed)

        return (check_existing if out.exists() or out.is_symlink() else write_verified)(out, source, to, how)

    def write(self, csv: str | Path) -> Path:
        """Writes the set as stage 2 does: a CSV and its companions NAME.json, NAME_text.txt and NAME_doc.txt.

        `read_pairs` then finds the images and masks of a set that came from folders. Returns the CSV's path. Raises UserError.
        """
        csv = Path(csv)
        if csv.suffix != ".csv":
            raise UserError(f"csv {csv}: must end in .csv")
        require_file_place(csv, "csv")
        columns = [name for name in self.table.columns if name in PAPER_COLUMNS or name in LIST_COLUMNS]
        with writing_pairs(csv.parent, csv.stem, columns) as writer:
            for row in self.table.rows(self.kept):
                writer.write(row)
        if isinstance(self._pictures, Folders):
            note_sources(csv, self._pictures.images, self._pictures.masks.folder)
        return csv

    def show(self, count: int = SHOWN, columns: int = COLUMNS) -> Image.Image:
        """A picture of the first `count` images with their masks outlined, and each mask's best expression in its colour.

        The number after an expression is its DoC; "not kept" marks masks that have no expression above the threshold. Raises
        UserError when an image or mask cannot be read.
        """
        rows: dict[str, list[Row]] = {name: [] for name in self._pictures.names}
        for row in self[: count * self._most_masks].rows():
            if row["img_name"] in rows or len(rows) < count:
                rows.setdefault(str(row["img_name"]), []).append(row)
        if not rows:
            raise UserError(f"{self._source}: no pairs are left to show; select with weaker rules")
        lines = max(1, max(map(len, rows.values())))
        if len(rows) == 1:
            return self._draw(*rows.popitem(), lines, SIDE, square=False)
        tiles = [self._draw(name, own, min(lines, MOST_LINES), TILE, square=True) for name, own in rows.items()]
        return draw_sheet(tiles, min(columns, len(tiles)))

    def __repr__(self) -> str:
        images = len(np.unique(self.table.image_name.codes[self._masks])) if len(self) else 0
        return f"PairSet(images={images}, masks={len(self)}, expressions={int(self.kept.sum())})"

    def _repr_png_(self) -> bytes | None:
        """The picture that a notebook shows; None for a set of which there is nothing to see."""
        if not len(self) and not self._pictures.names:
            return None
        content = io.BytesIO()
        self.show().save(content, "png")
        return content.getvalue()

    def _repr_html_(self) -> str:
        """The picture under a line that says what is in the set."""
        png = self._repr_png_()
        image = f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}">' if png else ""
        return f"<div><p>{html.escape(repr(self))}</p>{image}</div>"

    @cached_property
    def _masks(self) -> np.ndarray:
        """Rows that have a candidate left, int64."""
        return np.flatnonzero(np.bincount(self.table.row[self.kept], minlength=len(self.table.seg_id)))

    @cached_property
    def _most_masks(self) -> int:
        """Masks of the image that has most."""
        return int(np.bincount(self.table.image_name.codes[self._masks]).max(initial=0))

    @cached_property
    def _image_names(self) -> np.ndarray:
        return self.table.image_name.strings()

    def _with(self, kept: np.ndarray, threshold: float, steps: Sequence[Step]) -> PairSet:
        return PairSet(self.table, self._pictures, self._source, kept, threshold, steps)

    def _load(self, name: str) -> np.ndarray:
        """An image's pixels; the last one's are kept, since the masks of an image follow each other."""
        if self._decoded is None or self._decoded[0] != name:
            try:
                self._decoded = name, decode_image(self._pictures.read_image(name), name)
            except BadInputError as error:
                raise UserError(f"{self._source}, image {error}") from error
        return self._decoded[1]

    def _draw(self, name: str, rows: Sequence[Row], lines: int, side: int, square: bool) -> Image.Image:
        image = self._load(name)
        try:
            entries = entries_of(rows, self._pictures, image, self._threshold)
        except BadInputError as error:
            raise UserError(f"{self._source}, image {name!r:.80}: {error}") from error
        return draw_tile(name, image, entries, lines, side, square)


def read_pairs(path: str | Path, images: str | Path | None = None, masks: str | Path | None = None) -> PairSet:
    """The pairs that stage 2, `pseudo-ris select`, `generate` or `PairSet.write` left in a folder.

    Args:
        path: the CSV, or its folder when it holds one pairs CSV only.
        images: folder of the images. Needed for pairs that a command made; `generate` notes it in `NAME.sources.json`.
        masks: stage 1's folder of masks; without a note the folder `masks` beside that of the CSV, where there is one.

    Raises UserError that names what is missing: the CSV, a column, `images` or `masks`.

    Examples:
        >>> pr.read_pairs("out/pairs", images="photos", masks="out/masks")
        PairSet(images=1, masks=2, expressions=92)
    """
    csv = _find_csv(Path(path))
    noted = _noted_sources(csv)
    beside = csv.absolute().parent.parent / "masks"
    found = {
        "images": Path(images) if images is not None else noted.get("images"),
        "masks": Path(masks) if masks is not None else noted.get("masks", beside if beside.is_dir() else None),
    }
    for name, folder in found.items():
        if folder is None:
            raise UserError(f"{name}: {csv} does not say where they are; call read_pairs(..., {name}=FOLDER)")
        if not folder.exists():
            raise UserError(f"{name}: {folder} does not exist; call read_pairs(..., {name}=FOLDER)")
    return PairSet(read_table(csv), Folders.existing(found["images"], found["masks"]), str(csv))


def note_sources(csv: Path, images: Path, masks: Path) -> None:
    """Writes NAME.sources.json beside a CSV, for `read_pairs`. Raises UserError."""
    # The masks are output as the CSV is, and move with it; the images stay where they are.
    places = {"images": str(images.absolute()), "masks": os.path.relpath(masks, csv.parent)}
    write_atomic(csv.with_suffix(SOURCES_SUFFIX), json.dumps(places, ensure_ascii=False, indent=1) + "\n")


def _noted_sources(csv: Path) -> dict[str, Path]:
    path = csv.with_suffix(SOURCES_SUFFIX)
    if not path.exists():
        return {}
    try:
        places = json.loads(path.read_text(encoding="utf-8"))
        return {name: csv.parent / places[name] for name in ("images", "masks")}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: does not name the folders images and masks; remove it and give both") from error


def _find_csv(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"path: {path} does not exist; give the folder of stage 2's output or its CSV")
    found = sorted(each for each in path.glob("*.csv") if each.with_name(f"{each.stem}_doc.txt").exists())
    if len(found) != 1:
        names = (
            f"holds {len(found)} pairs CSVs ({', '.join(each.name for each in found[:3])})" if found else "holds no pairs CSV"
        )
        raise UserError(f"path: {path} {names}; give the CSV itself")
    return found[0]


def _require_known(kind: str, name: str, known: Iterable[str]) -> None:
    names = list(known)
    if name not in names:
        raise UserError(f"{kind}: {name} is unknown; did you mean {nearest(name, names)}? ({', '.join(names)})")
