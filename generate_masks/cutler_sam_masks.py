"""Stage 1: images -> pseudo masks. CutLER finds the objects, SAM draws them.

`pseudo-ris masks` is the same command; its module says more: pseudo_ris/cli/masks.py.
"""

from pseudo_ris.runtime.entry import importing

with importing():
    from pseudo_ris.cli.masks import main
    from pseudo_ris.runtime.command import run_recipe

if __name__ == "__main__":
    run_recipe(main)
