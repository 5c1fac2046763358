"""Pseudo-RIS: unlabeled images into training data for referring image segmentation, and models trained on it."""

import sys

if sys.argv[:1] == ["-m"]:  # `python -m pseudo_ris.X`: Python imports this package before it runs X as a command
    from pseudo_ris.runtime.entry import begin_command

    begin_command()
