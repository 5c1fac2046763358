import numpy as np
import pytest
import torch

from pseudo_ris.captions.crops import CLIP_MEAN, CLIP_STD, CROP_SETS, cut_crop, cut_crops, widen, widen_as_release
from pseudo_ris.config import CropConfig
from pseudo_ris.io.boxes import box_of

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def rectangle(x0, y0, x1, y1):
    mask = np.zeros((40, 60), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def colours(crop):
    """Normalised [3, S, S] -> [S, S, 3] in [0, 255]."""
    return (crop * torch.tensor(CLIP_STD).view(3, 1, 1) + torch.tensor(CLIP_MEAN).view(3, 1, 1)).permute(1, 2, 0).numpy() * 255


def test_box_is_tight_and_half_open():
    assert box_of(rectangle(5, 7, 6, 30)) == (5, 7, 6, 30)
    assert box_of(np.ones((40, 60), bool)) == (0, 0, 60, 40)
    with pytest.raises(ValueError, match="empty"):
        box_of(np.zeros((4, 4), bool))


def test_square_crop_at_its_own_size_is_the_image():
    crop = cut_crop(IMAGE, rectangle(10, 5, 26, 21), "image_1.0", 16, CropConfig())
    assert crop.dtype == torch.float32
    np.testing.assert_allclose(colours(crop), IMAGE[5:21, 10:26], atol=1e-3)


def test_masked_crop_shows_the_mean_colour_outside_the_mask():
    mask = rectangle(10, 5, 26, 21)
    mask[8:12, 12:20] = False
    crop = cut_crop(IMAGE, mask, "masked", 16, CropConfig(antialias=False))
    inside = mask[5:21, 10:26]
    np.testing.assert_allclose(colours(crop)[inside], IMAGE[5:21, 10:26][inside], atol=1e-3)
    assert (crop.permute(1, 2, 0).numpy()[~inside] == 0).all()


def test_content_is_centred_in_the_square():
    crop = cut_crop(IMAGE, rectangle(10, 5, 14, 21), "image_1.0", 16, CropConfig())
    np.testing.assert_allclose(colours(crop)[:, 6:10], IMAGE[5:21, 10:14], atol=1e-3)
    assert (crop[:, :, :6] == 0).all() and (crop[:, :, 10:] == 0).all()


@pytest.mark.parametrize(
    ("box", "margin", "expected"),
    [
        ((20, 10, 40, 20), 1.1, (19, 10, 41, 21)),
        ((20, 10, 40, 20), 1.2, (18, 9, 42, 21)),
        ((0, 30, 20, 40), 1.2, (0, 29, 22, 40)),
        ((7, 3, 8, 4), 1.2, (7, 3, 8, 4)),
    ],
)
def test_margin_widens_about_the_centre_and_stays_inside(box, margin, expected):
    assert widen(box, margin, (40, 60)) == expected


@pytest.mark.parametrize("crop_set", CROP_SETS)
@pytest.mark.parametrize("box", [(30, 5, 31, 35), (0, 39, 60, 40), (59, 39, 60, 40)])
def test_mask_one_pixel_wide(crop_set, box):
    crop = cut_crop(IMAGE, rectangle(*box), crop_set, 24, CropConfig())
    assert crop.shape == (3, 24, 24)
    assert torch.isfinite(crop).all() and crop.abs().sum() > 0


@pytest.mark.parametrize(
    ("box", "margin", "expected"),
    [
        ((20, 10, 40, 20), 1.0, (20, 10, 39, 19)),
        ((20, 10, 40, 20), 1.1, (19, 9, 39, 18)),  # from 19.05 on, 20.9 wide
        ((0, 30, 20, 40), 1.2, (0, 29, 20, 39)),  # cut off at the left and at the bottom
        ((40, 0, 60, 40), 1.2, (38, 0, 59, 40)),
        ((30, 5, 31, 35), 1.2, (30, 2, 30, 36)),
        ((7, 3, 8, 4), 1.2, (7, 3, 7, 3)),
    ],
)
def test_the_releases_box_is_short_and_cut_down_to_whole_pixels(box, margin, expected):
    assert widen_as_release(box, margin, (40, 60)) == expected


def test_the_releases_fill_is_lighter_than_the_mean_colour():
    mask = rectangle(10, 5, 14, 21)
    mask[9, 12] = False
    crop = cut_crop(IMAGE, mask, "masked", 16, CropConfig(fill="release"))
    filled = [*colours(crop)[:, :6].reshape(-1, 3), *colours(crop)[:, 10:].reshape(-1, 3), colours(crop)[4, 8]]
    np.testing.assert_allclose(filled, np.tile([155.8, 147.3, 132.8], (len(filled), 1)), atol=0.1)
    np.testing.assert_allclose(colours(crop)[:4, 6:10], IMAGE[5:9, 10:14], atol=1e-3)


@pytest.mark.parametrize("crop_set", CROP_SETS)
@pytest.mark.parametrize("box", [(30, 5, 31, 35), (0, 39, 60, 40), (59, 39, 60, 40)])
def test_the_releases_box_of_a_mask_one_pixel_wide_is_all_fill(crop_set, box):
    for fill in ("mean", "release"):
        crop = cut_crop(IMAGE, rectangle(*box), crop_set, 24, CropConfig(False, fill, "release"))
        expected = torch.tensor(CLIP_MEAN if fill == "release" else (0.0, 0.0, 0.0))
        assert torch.allclose(crop, expected.view(3, 1, 1).expand(3, 24, 24))


def test_antialiasing_is_a_setting():
    mask = rectangle(0, 0, 40, 40)
    smooth, rough = (cut_crop(IMAGE, mask, "image_1.0", 8, CropConfig(antialias)) for antialias in (True, False))
    assert smooth.std() < 0.5 * rough.std()  # averages over noise, instead of picking from it


def test_resizing_after_normalising_is_the_same_as_before():
    mask = rectangle(10, 5, 40, 30)
    pixels = torch.from_numpy(IMAGE[5:30, 10:40]).permute(2, 0, 1).float() / 255
    square = torch.tensor(CLIP_MEAN).view(3, 1, 1).expand(3, 30, 30).clone()
    square[:, 2:27] = pixels
    expected = torch.nn.functional.interpolate(square[None], (20, 20), mode="bilinear", antialias=True)[0]
    np.testing.assert_allclose(
        colours(cut_crop(IMAGE, mask, "image_1.0", 20, CropConfig())), expected.permute(1, 2, 0).numpy() * 255, atol=1e-2
    )


def test_crops_of_several_masks():
    masks = np.stack([rectangle(1, 2, 9, 12), rectangle(20, 20, 30, 40)])
    crops = cut_crops(IMAGE, masks, "image_1.1", 16, CropConfig())
    assert crops.shape == (2, 3, 16, 16)
    assert torch.equal(crops[1], cut_crop(IMAGE, masks[1], "image_1.1", 16, CropConfig()))
    assert cut_crops(IMAGE, masks[:0], "masked", 16, CropConfig()).shape == (0, 3, 16, 16)


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"image_1\.5"):
        cut_crop(IMAGE, rectangle(0, 0, 5, 5), "image_1.5", 16, CropConfig())
    with pytest.raises(ValueError, match="size"):
        cut_crop(IMAGE, np.ones((40, 61), bool), "masked", 16, CropConfig())
