"""What the listener adds to stage 2's time for an image.

    python benchmarks/listener.py --scenes 12                                     the embedded models
    python benchmarks/listener.py --scenes 1 --config default --length 12         full size, reproducible random weights

The reference is the same stage without the listener (`--listener.rivals 0`), in the same process, scene by scene. Drawn scenes
with their true masks, CPU time of the process, models loaded beforehand. The last line is one JSON object: `added` is the
listener's time as a share of the reference's, `equal` says that all candidates are the same with and without it.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

from common import peak_bytes, print_json, print_table

from pseudo_ris.config import CaptionGenerationConfig, ListenerConfig
from pseudo_ris.distinctiveness.nouns import RuleNounFinder
from pseudo_ris.io.device import pick_device
from pseudo_ris.models.clip.scorer import ClipScorer
from pseudo_ris.models.coca.captioner import CocaCaptioner
from pseudo_ris.stages.captions import caption_masks
from pseudo_ris.stages.settings import parse_config
from pseudo_ris.world.scenes import Scene, draw_scene


class Stage:
    """Stage 2 with its models loaded."""

    def __init__(self, config: CaptionGenerationConfig) -> None:
        self.config = config
        self._captioner = CocaCaptioner.from_config(config.coca, pick_device("cpu"))
        self._scorer = ClipScorer.from_config(config.clip, "cpu")

    def run(self, scene: Scene, rivals: int) -> tuple[float, list[list[str]]]:
        """CPU seconds for a scene, and each mask's candidates."""
        config = replace(self.config, listener=ListenerConfig(rivals))
        seg_ids = list(range(len(scene.masks)))
        began = time.process_time()
        captions = caption_masks(
            self._captioner, self._scorer, RuleNounFinder(), scene.image, scene.masks, seg_ids, "benchmark", config
        )
        return time.process_time() - began, [[candidate.text for candidate in mask.candidates] for mask in captions]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--scene", type=int, default=0, help="number of the first scene")
    parser.add_argument("--config", default="demo", help="a preset; all but demo with random weights")
    parser.add_argument("--length", type=int, default=30, help="tokens of the longest candidate")
    parser.add_argument("--rivals", type=int, default=ListenerConfig().rivals)
    options = parser.parse_args()
    words = ["--config", options.config, "--decoding.max_length", str(options.length)]
    words += [] if options.config == "demo" else ["--weights", "random"]
    stage = Stage(parse_config(CaptionGenerationConfig, words))
    stage.run(draw_scene("validation", 0, 0), options.rivals)
    with_listener = without = 0.0
    masks, equal = 0, True
    for index in range(options.scenes):
        scene = draw_scene("validation", 1, options.scene + index)
        without_seconds, expected = stage.run(scene, 0)
        with_seconds, found = stage.run(scene, options.rivals)
        without, with_listener = without + without_seconds, with_listener + with_seconds
        masks, equal = masks + len(scene.masks), equal and found == expected
    rows = [("without", f"{without / options.scenes:.3f}"), ("with", f"{with_listener / options.scenes:.3f}")]
    print_table(("listener", "CPU seconds an image"), rows)
    print_json(
        {
            "scenes": options.scenes,
            "masks": masks,
            "without": without,
            "with": with_listener,
            "added": with_listener / without - 1,
            "equal": equal,
            "peak_gib": peak_bytes() / 2**30,
        }
    )


if __name__ == "__main__":
    main()
