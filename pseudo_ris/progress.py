"""The one line that shows how far a run is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import TracebackType

from tqdm import tqdm


class Progress:
    """Progress line of a run while it is entered.

    Args:
        stage: what it is called. folder: the run's. total: images.
    """

    def __init__(self, stage: str, folder: Path, total: int) -> None:
        self.folder = folder
        self._line = tqdm(desc=stage, total=total, unit="image", dynamic_ncols=True, disable=None)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._line.close()

    def step(self, counts: Counter[str], failed: int, workers: str = "") -> None:
        """One image more has ended. counts: images by Outcome.status. failed: on the list of failures, earlier runs' included.

        workers: how many are alive, for a person; "" without an engine.
        """
        said = [f"{failed} failed" if failed else "", workers]
        self._line.set_postfix_str(", ".join(part for part in said if part), refresh=False)
        self._line.update()
