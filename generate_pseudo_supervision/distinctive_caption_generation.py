"""Stage 2: images and their masks -> mask-expression pairs. CoCa writes candidate expressions, CLIP scores them.

`pseudo-ris pairs` is the same command; its module says more: pseudo_ris/cli/pairs.py.
"""

from pseudo_ris.runtime.entry import importing

with importing():
    from pseudo_ris.cli.pairs import main
    from pseudo_ris.runtime.command import run_recipe

if __name__ == "__main__":
    run_recipe(main)
