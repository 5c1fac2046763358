"""Where no garbage is looked for, and that it is looked for again afterwards."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from pseudo_ris.io.gc_tuning import no_collection

ROOT = Path(__file__).parents[2]
SET_ASIDE = """
import atexit, gc
atexit.register(lambda: print("at the end", gc.get_freeze_count()))
from pseudo_ris.io.gc_tuning import set_aside
set_aside()
print("set aside", gc.get_freeze_count() > 1000)
"""
NO_SHARDS = """
import sys
from pathlib import Path
from pseudo_ris.storage.compaction.archive import Archive
archive = Archive(Path(sys.argv[1]))
print(archive.key_of("1"), archive.find("1"), list(archive.image_ids()), "pandas" in sys.modules)
"""


def said(code: str, *arguments: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_it_is_looked_for_again_also_after_an_error():
    with pytest.raises(ValueError, match="stop"), no_collection():
        assert not gc.isenabled()
        with no_collection():
            pass
        assert not gc.isenabled(), "the outer block has not ended"
        raise ValueError("stop")
    assert gc.isenabled()


def test_what_is_set_aside_is_handed_back_at_the_end():
    assert said(SET_ASIDE) == ["set aside True", "at the end 0"]


def test_no_shards_cost_no_import_of_pandas(tmp_path):
    assert said(NO_SHARDS, str(tmp_path)) == ["None None [] False"]
