"""Masks as PNG files."""

import numpy as np

from pseudo_ris.io.mask_png import decode_mask, encode_mask, is_sound_png


def test_a_png_is_sound_until_any_byte_of_it_changes_or_is_missing():
    mask = np.random.default_rng(0).random((9, 11)) < 0.5
    data = encode_mask(mask)
    assert np.array_equal(decode_mask(data), mask)
    assert is_sound_png(data)
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        assert not is_sound_png(bytes(damaged)), place
        assert not is_sound_png(data[:place])
