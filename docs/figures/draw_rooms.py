"""Draws the rooms of the package from its imports: `python docs/figures/draw_rooms.py` writes docs/figures/rooms.svg."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pseudo_ris"
# From the ground up, as docs/architecture.md lists them; the groups are drawn as bands.
BANDS = {
    "commands": ("cli",),
    "experiments": ("lab", "world"),
    "the three stages": ("stages", "ris"),
    "in and out": ("report", "visual", "sources", "formats", "pairs"),
    "running": ("storage", "runtime"),
    "the method": ("distinctiveness", "captions", "masks"),
    "models": ("models", "checkpoints", "assets"),
    "ground": ("io",),
}
WIDTH, LEFT, BAND, GAP, BOX = 800, 124, 86, 8, 66
HUES = ("#e8eaf6", "#ede7f6", "#e3f2fd", "#e0f2f1", "#e8f5e9", "#fff8e1", "#fff3e0", "#eceff1")


def imports_of_rooms() -> dict[str, set[str]]:
    """The rooms that each room imports, itself left out."""
    rooms = {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").exists()}
    found: dict[str, set[str]] = {room: set() for room in rooms}
    for room in rooms:
        for path in (PACKAGE / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pseudo_ris."):
                    found[room].add(str(node.module).split(".")[1])
        found[room] = (found[room] & rooms) - {room}
    return found


def draw() -> str:
    """The map as SVG: one box a room, with the rooms that it imports."""
    imports = imports_of_rooms()
    missing = set(imports).symmetric_difference(room for rooms in BANDS.values() for room in rooms)
    if missing:
        raise SystemExit(f"docs/figures/draw_rooms.py: BANDS and the package differ in {', '.join(sorted(missing))}")
    height = len(BANDS) * BAND + 2 * GAP + 26
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff"/>',
    ]
    for number, (band, rooms) in enumerate(BANDS.items()):
        top = GAP + number * BAND
        lines.append(f'<rect x="{GAP}" y="{top}" width="{WIDTH - 2 * GAP}" height="{BAND - 6}" rx="6" fill="{HUES[number]}"/>')
        lines.append(f'<text x="{GAP + 10}" y="{top + 44}" font-size="13" fill="#37474f">{band}</text>')
        width = (WIDTH - LEFT - 2 * GAP) / len(rooms)
        for place, room in enumerate(rooms):
            lines += _box(room, LEFT + GAP + place * width, top + 7, width - GAP, sorted(imports[room]))
    note = "Every import goes to a box further down or, within a band, further right. errors, records and config lie below all."
    lines.append(f'<text x="{GAP + 10}" y="{height - 12}" font-size="12" fill="#37474f">{escape(note)}</text>')
    return "\n".join([*lines, "</svg>", ""])


def _box(room: str, x: float, y: float, width: float, imported: list[str]) -> list[str]:
    lines = _wrapped(imported, int(width / 6.9))
    return [
        f'<rect x="{x:.0f}" y="{y}" width="{width:.0f}" height="{BOX}" rx="5" fill="#ffffff" stroke="#5c6bc0"/>',
        f'<text x="{x + 8:.0f}" y="{y + 18}" font-size="15" font-weight="bold" fill="#1a237e">{room}</text>',
        *(
            f'<text x="{x + 8:.0f}" y="{y + 33 + 14 * row}" font-size="12" fill="#455a64">{line}</text>'
            for row, line in enumerate(lines)
        ),
    ]


def _wrapped(words: list[str], letters: int) -> list[str]:
    """The imported rooms in lines of at most `letters` letters."""
    rows: dict[int, list[str]] = defaultdict(list)
    row, used = 0, 2
    for word in words:
        if used + len(word) + 1 > letters and rows[row]:
            row, used = row + 1, 2
        rows[row].append(word)
        used += len(word) + 1
    return [("→ " if number == 0 else "") + " ".join(line) for number, line in sorted(rows.items())]


if __name__ == "__main__":
    (ROOT / "docs" / "figures" / "rooms.svg").write_text(draw())
