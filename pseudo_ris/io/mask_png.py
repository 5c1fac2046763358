"""Masks as PNG files of 0 and 255, as ETRIS and CRIS keep them."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
from PIL import Image

from pseudo_ris.errors import BadInputError
from pseudo_ris.io.images import check_size, open_image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHUNK = struct.Struct(">I4s")
"""Of a PNG: length of its data, and type; then come the data and the CRC-32 of type and data."""


def encode_mask(mask: np.ndarray) -> bytes:
    """The PNG, 8 bits grey, of a mask, bool [H, W]."""
    return cv2.imencode(".png", mask.astype(np.uint8) * 255)[1].tobytes()


def is_sound_png(data: bytes) -> bool:
    """Whether the file is a whole PNG whose chunks have the checksums that it gives them; no pixel is decoded."""
    place, kind = len(SIGNATURE), b""
    while data.startswith(SIGNATURE) and kind != b"IEND" and place + CHUNK.size <= len(data):
        length, kind = CHUNK.unpack_from(data, place)
        end = place + CHUNK.size + length
        if data[end : end + 4] != zlib.crc32(data[place + 4 : end]).to_bytes(4, "big"):
            return False
        place = end + 4
    return kind == b"IEND"


def decode_mask(data: bytes) -> np.ndarray:
    """The mask, bool [H, W], of an image file: where its grey value is 128 or more.

    Half of the range and not 255: ETRIS's tools add up overlapping polygons in 8 bits, and two give 254.
    Raises BadInputError.
    """
    try:
        with open_image(data) as file:
            check_size(file.height, file.width)
            return np.asarray(file.convert("L")) >= 128
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError) as error:
        # Pillow's own text for what it cannot identify holds a memory address
        raise BadInputError(f"mask: not a readable image ({type(error).__name__}); get the file again") from error
