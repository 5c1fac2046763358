"""Paths of the presets (configs/*.yaml) and of the list of published weights (third_party/weights.yaml).

Both folders are at the top of the repository. This package holds links to them, and a wheel holds the files themselves, so
their paths below the package are the same in a checkout and in an installation.
"""

from __future__ import annotations

from pathlib import Path

from pseudo_ris.errors import UserError, nearest

_HERE = Path(__file__).parent
PRESETS = (_HERE / "configs").resolve()
WEIGHTS_LIST = (_HERE / "third_party" / "weights.yaml").resolve()
IN_CHECKOUT = (_HERE / "third_party").is_symlink()
"""Whether the package runs from a checkout of the repository, also when it is installed from there with `pip install -e`."""


def preset_names() -> tuple[str, ...]:
    """Names of the presets, sorted: "cris", "default", "demo" and so on."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.yaml")))


def preset_path(name: str) -> Path:
    """The YAML file of a preset. Raises UserError that gives the nearest name when there is no such preset."""
    if name not in (known := preset_names()):
        raise UserError(f"{name}: no such preset; did you mean {nearest(name, known)}? (presets: {', '.join(known)})")
    return PRESETS / f"{name}.yaml"
