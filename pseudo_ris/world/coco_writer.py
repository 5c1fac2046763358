"""Writes and reads drawn scenes as a folder of images (images/scene_00000.png, ...) with a COCO instances.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from pseudo_ris.errors import UserError
from pseudo_ris.world.scenes import CATEGORIES, SIZE, Scene, SceneObject

INSTANCES = "instances.json"
IMAGES = "images"


def write_coco_scenes(scenes: Iterable[Scene], folder: Path | str, description: str = "drawn scenes") -> Path:
    """Writes scenes as lossless PNGs and a COCO instances.json; returns the path of instances.json.

    Annotations are in the order of `Scene.objects`, with ids from 1, masks as compressed RLE, and
    "attributes": {"colour", "pattern", "size"}.

    Raises:
        UserError: the folder already contains an instances.json, or cannot be written.
    """
    folder = Path(folder)
    target = folder / INSTANCES
    if target.exists():
        raise UserError(f"{target}: already exists; choose another folder or remove this one")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    try:
        (folder / IMAGES).mkdir(parents=True, exist_ok=True)
        for image_id, scene in enumerate(scenes, start=1):
            name = f"scene_{image_id - 1:05d}.png"
            _write_png(folder / IMAGES / name, scene.image)
            images.append({"id": image_id, "file_name": name, "width": SIZE, "height": SIZE})
            annotations += _annotations(scene, image_id, first_id=len(annotations) + 1)
        categories = [{"id": number, "name": name} for number, name in enumerate(CATEGORIES, start=1)]
        content = {
            "info": {"description": description},
            "images": images,
            "annotations": annotations,
            "categories": categories,
        }
        target.write_text(json.dumps(content) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from error
    return target


def _write_png(path: Path, image: np.ndarray) -> None:
    _, encoded = cv2.imencode(".png", image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    path.write_bytes(encoded.tobytes())


def _annotations(scene: Scene, image_id: int, first_id: int) -> list[dict[str, Any]]:
    result = []
    for number, (obj, mask) in enumerate(zip(scene.objects, scene.masks, strict=True), start=first_id):
        run_lengths = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        x0, y0, x1, y1 = obj.box
        result.append(
            {
                "id": number,
                "image_id": image_id,
                "category_id": CATEGORIES.index(obj.category) + 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": int(mask.sum()),
                "iscrowd": 0,
                "segmentation": {"size": [SIZE, SIZE], "counts": run_lengths["counts"].decode("utf-8")},
                "attributes": {"colour": obj.colour, "pattern": obj.pattern, "size": obj.size},
            }
        )
    return result


def load_coco_scenes(folder: Path | str) -> list[tuple[str, Scene]]:
    """Reads a folder written by `write_coco_scenes`; returns (file name, scene) in file order, equal to the written scenes.

    Raises:
        UserError: instances.json or an image is missing, cannot be read or lacks a field.
    """
    folder = Path(folder)
    source = folder / INSTANCES
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
        names = {entry["id"]: entry["name"] for entry in content["categories"]}
        by_image: dict[int, list[dict[str, Any]]] = {entry["id"]: [] for entry in content["images"]}
        for annotation in content["annotations"]:
            by_image[annotation["image_id"]].append(annotation)
        return [
            (entry["file_name"], _read_scene(folder / IMAGES / entry["file_name"], by_image[entry["id"]], names))
            for entry in content["images"]
        ]
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror}); {_REMEDY}") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{source}: is not JSON ({error}); {_REMEDY}") from error
    except (KeyError, TypeError) as error:
        raise UserError(f"{source}: lacks {error}; {_REMEDY}") from error


_REMEDY = "write the folder with `pseudo-ris lab draw-scenes`"


def _read_scene(path: Path, annotations: Sequence[dict[str, Any]], names: dict[int, str]) -> Scene:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None
    if image is None:
        raise UserError(f"{path}: missing or not an image; {_REMEDY}")
    label_map = np.zeros(image.shape[:2], np.uint8)
    objects = []
    for number, annotation in enumerate(annotations, start=1):
        label_map[coco_mask.decode(annotation["segmentation"]).astype(bool)] = number
        x, y, width, height = annotation["bbox"]
        attributes = annotation["attributes"]
        objects.append(
            SceneObject(
                category=names[annotation["category_id"]],
                colour=attributes["colour"],
                pattern=attributes["pattern"],
                size=attributes["size"],
                box=(x, y, x + width, y + height),
            )
        )
    return Scene(np.ascontiguousarray(image[..., ::-1]), label_map, tuple(objects))
