"""Stage 3, evaluation: how well a trained model finds what sentences mean.

`pseudo-ris evaluate` is the same command; its module says more: pseudo_ris/cli/evaluate.py.
"""

from pseudo_ris.runtime.entry import importing

with importing():
    from pseudo_ris.cli.evaluate import main
    from pseudo_ris.runtime.command import run_recipe

if __name__ == "__main__":
    run_recipe(main)
