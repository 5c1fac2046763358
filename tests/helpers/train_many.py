"""Trainings one after the other in the processes that torchrun started; each process writes to a folder of its own.

python -m torch.distributed.run --nproc_per_node 2 train_many.py TRAININGS.json

TRAININGS.json: for each training a list of train.py's options and a free port. The first training joins as torchrun says, the
others by their port: one torchrun serves one group of processes.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from train_ris.train import main

for number, (options, port) in enumerate(json.loads(Path(sys.argv[1]).read_text())):
    if number:
        os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="False")
    place = options.index("--output") + 1
    code = main([*options[:place], f"{options[place]}/{os.environ['RANK']}", *options[place + 1 :]])
    if code:
        sys.exit(code)
