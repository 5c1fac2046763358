"""Builds the report as one self-contained HTML file: static figures and charts, and JSON data for the gallery's script."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from pseudo_ris.pairs.candidate_table import CandidateTable
from pseudo_ris.report import charts, statistics
from pseudo_ris.report.gallery import DUPLICATE_IOU, ImageView
from pseudo_ris.report.statistics import Diversity, Histogram

HERE = Path(__file__).parent
TOP_WORDS = 20
MOST_PROBLEMS = 200
PERCENTILES = (5, 50, 95)
SCORES = {"doc": "DoC", "uniqueness": "uniqueness", "correctness": "correctness"}
BOTH = {"a": "kept", "b": "rejected"}


@dataclass(frozen=True)
class Report:
    """The content of the page.

    name: of the CSV. kept: bool [C], candidates that pass `threshold`. views: all images. shown: indices of the images in the
    gallery. gallery: their data. unseen: number of images that neither stage 1 nor the CSV contains.
    """

    name: str
    table: CandidateTable
    kept: np.ndarray
    threshold: float
    views: Sequence[ImageView]
    shown: Sequence[int]
    gallery: dict[str, object]
    unseen: int


def build_page(report: Report) -> bytes:
    """Returns the HTML file in UTF-8; the same report gives the same bytes."""
    style, script = (_template(name) for name in ("style.css", "page.js"))
    problems = [problem for view in report.views for problem in view.problems]
    page = Template(_template("page.html")).substitute(
        name=escape(report.name),
        style=style,
        script=script,
        style_hash=_policy_hash(style),
        script_hash=_policy_hash(script),
        summary=_summary(report),
        totals="".join(f"<div><dt>{term}</dt><dd>{value}</dd></div>" for term, value in _totals(report)),
        charts="".join((*_charts(report), *_words(report))),
        problem_count=f"{len(problems):,}",
        problems=_problem_list(problems),
        gallery_note=_gallery_note(report),
        data=_script_json(report.gallery),
    )
    return page.encode()


def _summary(report: Report) -> str:
    return (
        f"A candidate counts as kept when its DoC is over {report.threshold:g}; of the only mask of an image the better half is"
        " kept. The paper's words: DoC = m b / the largest m b of the image's other masks; uniqueness = b / their largest b;"
        " correctness = m."
    )


def _totals(report: Report) -> Iterable[tuple[str, str]]:
    table, kept, views = report.table, report.kept, report.views
    masks, candidates = len(table.seg_id), len(table.doc)
    without = masks - len(np.unique(table.row[kept]))
    twins = sum(bool(mask.twins) for view in views for mask in view.masks)
    found = sum(len(view.masks) for view in views)
    yield "images", f"{len(views):,}"
    yield "images without a mask", f"{sum(_is_bare(view) for view in views):,}"
    yield "masks with candidates", f"{masks:,}"
    yield "candidates", f"{candidates:,}"
    yield "kept candidates", _with_share(int(kept.sum()), candidates)
    yield "masks without a passing expression", _with_share(without, masks)
    yield "only masks of their image", _with_share(int(table.one_mask.sum()), masks)
    yield f"duplicate masks (IoU &gt; {DUPLICATE_IOU:g})", _with_share(twins, found)
    for name, title in SCORES.items():
        if name in table.scores and candidates:
            yield f"{title}, median (5% to 95%)", _spread(table.scores[name])
    if report.unseen:
        yield "images of the folder not worked on", f"{report.unseen:,}"


def _is_bare(view: ImageView) -> bool:
    return not view.masks and not view.problems


def _with_share(count: int, of: int) -> str:
    return f"{count:,} <small>{count / max(1, of):.1%}</small>"


def _spread(values: np.ndarray) -> str:
    low, middle, high = np.percentile(values, PERCENTILES)
    return f"{middle:.3g} <small>({low:.3g} to {high:.3g})</small>"


def _charts(report: Report) -> Iterable[str]:
    table, kept, views = report.table, report.kept, report.views
    for name, title in SCORES.items():
        if name in table.scores:
            counted = statistics.histogram({"kept": table.scores[name][kept], "rejected": table.scores[name][~kept]})
            mark = report.threshold if name == "doc" else None
            yield _figure(title, charts.histogram_chart(counted, title, "candidates", mark), counted, BOTH)
    lengths = _word_lengths(table)
    counted = statistics.histogram({"kept": lengths[kept], "rejected": lengths[~kept]}, whole=True)
    yield _figure("Sentence length", charts.histogram_chart(counted, "words", "candidates"), counted, BOTH)
    shares = np.array([mask.share for view in views for mask in view.masks])
    counted = statistics.histogram({"masks": shares})
    yield _figure("Mask area", charts.histogram_chart(counted, "% of the image", "masks", percent=True), counted)
    counts = np.array([len(view.masks) for view in views if view.masks or _is_bare(view)])
    counted = statistics.histogram({"images": counts}, whole=True)
    yield _figure("Masks per image", charts.histogram_chart(counted, "masks", "images"), counted)
    curve = statistics.selection_curve(table, kept, report.threshold)
    masks = len(np.unique(table.row[kept])) / max(1, len(table.seg_id))
    note = f"At {report.threshold:g}: {kept.mean() if len(kept) else 0:.1%} of the candidates, {masks:.1%} of the masks."
    legend = charts.legend(dict(zip(charts.SERIES, curve.shares, strict=True)))
    chart = charts.curve_chart(curve, "threshold on DoC", report.threshold)
    yield f'<figure><figcaption>What a threshold keeps</figcaption>{legend}{chart}<p class="note">{note}</p></figure>'


def _word_lengths(table: CandidateTable) -> np.ndarray:
    """Returns the number of words of each candidate, int [C]."""
    return np.array([len(statistics.words(text)) for text in table.text.values], np.int64)[table.text.codes]


def _figure(title: str, chart: str, counted: Histogram, names: dict[str, str] | None = None) -> str:
    notes = [f"{count:,} {side} the shown range, counted in its outermost bar." for count, side in _outside(counted) if count]
    note = f'<p class="note">{" ".join(notes)}</p>' if notes else ""
    title = title[0].upper() + title[1:]
    return f"<figure><figcaption>{escape(title)}</figcaption>{charts.legend(names) if names else ''}{chart}{note}</figure>"


def _outside(counted: Histogram) -> list[tuple[int, str]]:
    return [(counted.below, "below"), (counted.above, "above")]


def _words(report: Report) -> Iterable[str]:
    texts = {"all candidates": _sentences(report.table, None), "kept candidates": _sentences(report.table, report.kept)}
    yield _diversity_table({name: statistics.diversity(own) for name, own in texts.items()})
    counts = statistics.word_counts(texts["kept candidates"])
    common = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:TOP_WORDS]
    yield (
        f"<figure><figcaption>Most frequent words of the kept expressions</figcaption>{charts.bar_chart(common, 'word counts')}"
        f'<p class="note">Of {len(counts):,} different words; a, an, the, and, or and prepositions are left out.</p></figure>'
    )


def _sentences(table: CandidateTable, chosen: np.ndarray | None) -> list[str]:
    """Returns the sentences of the chosen candidates (None: all) in table order, without repetitions within a mask."""
    places = np.arange(len(table.row)) if chosen is None else np.flatnonzero(chosen)
    pairs = np.stack([table.row[places], table.text.codes[places]], axis=1)
    first = np.sort(np.unique(pairs, axis=0, return_index=True)[1])
    return [table.text.values[code] for code in table.text.codes[places[first]]]


def _diversity_table(of: dict[str, Diversity]) -> str:
    rows = (
        ("sentences", lambda d: f"{d.sentences:,}"),
        ("different sentences", lambda d: f"{d.different:,}"),
        ("distinct-1", lambda d: _figure_of(d.distinct_1)),
        ("distinct-2", lambda d: _figure_of(d.distinct_2)),
        ("self-BLEU-4", lambda d: _figure_of(d.self_bleu)),
        ("sentences sampled for it", lambda d: f"{d.sampled:,}"),
    )
    head = "".join(f'<th scope="col" class="number">{escape(name)}</th>' for name in of)
    body = "".join(
        f'<tr><th scope="row">{name}</th>' + "".join(f'<td class="number">{show(d)}</td>' for d in of.values()) + "</tr>"
        for name, show in rows
    )
    return (
        f"<figure><figcaption>Diversity</figcaption><table><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>"
        '<p class="note">A sentence repeated within a mask counts once. distinct-n: different n-grams over all, so it falls as'
        f" sentences are added. Self-BLEU: mean BLEU-4 of each of at most {statistics.SELF_BLEU_SAMPLE} sentences, drawn with a"
        " fixed seed, against the others drawn (NLTK, smoothing method 1); lower is more varied.</p></figure>"
    )


def _figure_of(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _problem_list(problems: Sequence[str]) -> str:
    if not problems:
        return '<p class="note">None: every row of the CSV has its image and its mask, every mask its row.</p>'
    items = "".join(f"<li>{escape(problem)}</li>" for problem in problems[:MOST_PROBLEMS])
    more = f"<p>and {len(problems) - MOST_PROBLEMS:,} more</p>" if len(problems) > MOST_PROBLEMS else ""
    title = f"{len(problems):,} images or masks are missing, cannot be read or do not fit the CSV"
    return f"<details><summary>{title}</summary><ul>{items}</ul>{more}</details>"


def _gallery_note(report: Report) -> str:
    shown, count = len(report.shown), len(report.views)
    extent = (
        "All images are shown."
        if shown == count
        else (f"{shown:,} of {count:,} images are shown, evenly spread over the file; the figures above are of all of them.")
    )
    return (
        f"{extent} Click a mask, or its line below the picture, to see its candidates. Keys: Tab goes from image to image,"
        " arrows from mask to mask, Enter opens one, Escape closes it."
    )


def _template(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _policy_hash(content: str) -> str:
    """Returns the hash by which the page's content security policy allows an inline style or script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def _script_json(value: object) -> str:
    """Returns JSON that cannot end or start an HTML element, whatever its texts contain."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
