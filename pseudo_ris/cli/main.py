"""`pseudo-ris COMMAND`: one command for everything; each subcommand is a small module of this package."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module

from pseudo_ris.errors import UserError, nearest
from pseudo_ris.runtime.command import run_recipe
from pseudo_ris.runtime.entry import importing

COMMANDS = {
    "demo": "run both stages on drawn scenes, in about a minute",
    "masks": "stage 1: images -> pseudo masks",
    "pairs": "stage 2: images and masks -> mask-expression pairs",
    "select": "select candidates of a pairs CSV",
    "fit": "fit a rule of selection to labelled candidates",
    "report": "write an HTML report of a pairs CSV",
    "contact-sheet": "draw the pairs",
    "export": "write pairs in a format that trainers read",
    "convert": "convert a set into another format",
    "unpack": "write a set as folders of images and masks",
    "train": "stage 3: train a RIS model",
    "evaluate": "stage 3: evaluate a trained model",
    "predict": "segment what an expression refers to in one image",
    "weights": "download, list or verify published weights",
    "status": "show progress and failures of a run",
    "unshard": "turn shards back into one file per image",
    "info": "show versions, devices, presets and weights at hand",
    "completion": "print completion for bash, zsh or tcsh",
    "lab": "drawn scenes, the embedded models and experiments",
}
LAB = {
    "draw-scenes": "draw scenes with ground truth",
    "evaluate": "measure the embedded models on drawn scenes",
    "ablate": "what each part of the method is worth",
    "fit-rule": "fit a rule of selection, and judge it",
    "train": "train the embedded models",
    "learn-vocabulary": "learn the embedded models' vocabulary",
    "preset-effects": "what each of the paper's settings changes",
    "refer-world": "draw a small RefCOCO",
    "summary": "pairs of drawn scenes against their ground truth",
    "weakly-supervised": "from drawn images to RIS models",
    "parameters": "parameters of a RIS model, part by part",
    "finetune": "fine-tune CoCa on image-caption pairs",
    "finetune-data": "draw captioned crops for fine-tuning",
    "finetune-report": "CoCa before and after fine-tuning",
}


def run() -> None:
    """The entry point of the `pseudo-ris` command."""
    with importing():
        command = load_command(sys.argv[1:])
    run_recipe(lambda _: command())


def main(argv: Sequence[str]) -> int:
    """Runs `pseudo-ris` with the words `argv`; returns the exit code. Raises UserError."""
    return load_command(argv)()


def load_command(words: Sequence[str]) -> Callable[[], int]:
    """Imports the subcommand that `words` begin with; the result runs it and returns its exit code."""
    depth = 1 if words[:1] == ["lab"] else 0
    known, typed = (LAB, "pseudo-ris lab") if depth else (COMMANDS, "pseudo-ris")
    if len(words) == depth or words[depth] in ("-h", "--help"):
        return partial(_show_overview, typed, known)
    if words[depth] not in known:
        return partial(_refuse, typed, known, words[depth])
    module = import_module(module_of(words[: depth + 1]))
    return partial(module.main, words[depth + 1 :])


def module_of(command: Sequence[str]) -> str:
    """Name of a subcommand's module. command: its words, such as ("lab", "draw-scenes")."""
    return ".".join(["pseudo_ris.cli", *(word.replace("-", "_") for word in command)])


def _show_overview(typed: str, commands: dict[str, str]) -> int:
    width = max(map(len, commands))
    listed = [f"  {name:{width}}  {what}" for name, what in commands.items()]
    print("\n".join([f"usage: {typed} COMMAND [OPTIONS]", "", *listed, "", f"{typed} COMMAND --help says more."]))
    return 0


def _refuse(typed: str, commands: dict[str, str], word: str) -> int:
    raise UserError(f"{typed} {word}: no such command; did you mean {nearest(word, commands)}?")
