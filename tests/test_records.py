"""Records that hold arrays."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from pseudo_ris.records import MaskRecord

PACKAGE = Path(__file__).parents[1] / "pseudo_ris"
ARRAYS = ("np.ndarray", "torch.Tensor")


def compared_records(path: Path) -> list[str]:
    """Dataclasses of a file that compare their fields though one is an array."""
    return [
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and any("dataclass" in (text := ast.unparse(each)) and "eq=False" not in text for each in node.decorator_list)
        and any(isinstance(field, ast.AnnAssign) and ast.unparse(field.annotation) in ARRAYS for field in node.body)
    ]


@pytest.mark.parametrize("folder", ["masks", "captions", "distinctiveness"])
def test_records_of_the_stages_do_not_compare_arrays(folder):
    found = {path.name: names for path in (PACKAGE / folder).glob("*.py") if (names := compared_records(path))}
    assert found == {}, "an array has no single truth value and no hash: eq=False"


def test_mask_records_compare_and_hash_without_a_look_at_their_pixels():
    one, other = (MaskRecord(0, np.eye(3, dtype=bool), (0, 0, 3, 3), 0.9, "sam") for _ in range(2))
    assert one == one
    assert one != other
    assert len({one, other, one}) == 2
