"""`python -m pseudo_ris.cli` is `pseudo-ris`."""

from pseudo_ris.cli.main import run

run()
