"""Stage 3: mask-expression pairs -> a model that finds what a sentence means.

`pseudo-ris train` is the same command; its module says more: pseudo_ris/cli/train.py.
"""

from pseudo_ris.runtime.entry import importing

with importing():
    from pseudo_ris.cli.train import main
    from pseudo_ris.runtime.command import run_recipe

if __name__ == "__main__":
    run_recipe(main)
