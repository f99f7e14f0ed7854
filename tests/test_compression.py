"""`jdcsuite.compress` and `jdcsuite.decompress`: arrays to bytes and back, cached weights, errors."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import jdcsuite
from jdcsuite.artifacts import weights
from jdcsuite.coding.container import Contents, pack, unpack
from jdcsuite.files import compression
from jdcsuite.imaging.depth import Depth
from jdcsuite.imaging.pixels import to_bytes
from jdcsuite.models.fllic import FLLIC
from jdcsuite.types import CorruptFile, UserError

SHAPE = {"widths": [8, 8, 16], "num_latents": 32, "prior_width": 8}


def saved(folder: Path, *, seed: int = 0, **changes: object) -> FLLIC:
    """A narrow codec with random weights, saved in ``folder``."""
    torch.manual_seed(seed)
    model = FLLIC(**(SHAPE | changes)).eval()
    model.update()
    folder.mkdir(parents=True, exist_ok=True)
    config = {"_target_": "jdcsuite.models.fllic.FLLIC", **SHAPE, **changes}
    weights.save(model, config, folder / "weights.safetensors", about={"run": folder.name})
    return model


def photo(height: int, width: int, *, seed: int = 0, deep: bool = False) -> np.ndarray:
    """A smooth field with noise."""
    random = np.random.default_rng(seed)
    y, x = np.arange(height)[:, None, None], np.arange(width)[None, :, None]
    field = 0.5 + 0.3 * np.sin(y / 31 + x / 17 + np.arange(3)) + random.normal(0, 0.04, (height, width, 3))
    top = 65535 if deep else 255
    return np.rint(np.clip(field, 0, 1) * top).astype(np.uint16 if deep else np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    saved(path)
    return path


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (70, 33)])
def test_an_image_makes_the_round_trip(run, size, deep):
    picture = photo(*size, deep=deep)
    data = jdcsuite.compress(picture, run)
    assert isinstance(data, bytes) and data[:3] == b"JDC"
    back = jdcsuite.decompress(data, run / "weights.safetensors")
    assert back.dtype == picture.dtype and back.shape == picture.shape
    assert jdcsuite.compress(picture.copy(), str(run)) == data
    assert np.array_equal(jdcsuite.decompress(bytearray(data), weights.load(run)), back)
    assert unpack(data).bit_depth == (16 if deep else 8)


def test_the_decoded_array_is_the_rounded_reconstruction(run):
    model, picture = weights.load(run), photo(40, 50)
    data = jdcsuite.compress(picture, model)
    decoded = jdcsuite.decompress(data, model)
    assert np.array_equal(decoded, to_bytes(model.decompress(data)[0]))
    with torch.no_grad():
        forward = model(torch.from_numpy(picture.transpose(2, 0, 1)).float()[None] / 255).x_hat
    # float32 here, float64 between bits and symbols there: a value at the limit of two levels may go to either
    difference = np.abs(decoded.astype(int) - to_bytes(forward[0]))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.005


def test_16_bit_images_are_decoded_at_full_depth(run):
    """The decoded samples are not those of an 8-bit image, scaled."""
    back = jdcsuite.decompress(jdcsuite.compress(photo(64, 64, deep=True), run), run)
    assert (back % 257 != 0).any()


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_data_below_full_scale_are_coded_as_what_they_show(run, bits):
    """12 bits in 16-bit words were coded as a nearly black image: 11.1 dB where the shifted file has 31.5."""
    aligned = photo(40, 50, deep=True) >> (16 - bits) << (16 - bits)
    low = aligned >> (16 - bits)
    decoded, contents = {}, {}
    for name, image in (("low", low), ("aligned", aligned)):
        data = jdcsuite.compress(image, run)
        decoded[name], contents[name] = jdcsuite.decompress(data, run), unpack(data)
        assert decoded[name].dtype == np.uint16
    assert contents["low"].tiles == contents["aligned"].tiles
    np.testing.assert_array_equal(decoded["low"], decoded["aligned"] >> (16 - bits))
    full = jdcsuite.decompress(jdcsuite.compress(photo(40, 50), run), run)
    assert (
        decoded["low"].max() < 1 << bits and abs(decoded["low"].mean() / ((1 << bits) - 1) - full.mean() / 255) < 0.01
    )
    measured = compression.psnr(decoded["low"], low, peak=(1 << bits) - 1)
    assert measured == pytest.approx(compression.psnr(full, photo(40, 50)), abs=0.2)


def test_the_depth_of_an_image_can_be_given(run):
    dark = photo(20, 20, deep=True) >> 6
    data = jdcsuite.compress(dark, run, depth=Depth(bits=14))
    assert unpack(data).depth == Depth(bits=14) and unpack(jdcsuite.compress(dark, run)).depth == Depth(bits=10)
    assert unpack(jdcsuite.compress(dark, run, depth=Depth())).depth == Depth()


def test_metadata_colour_and_tile_are_in_the_file(run):
    for width, tile in ((65, 64), (64, 0)):  # an image that fits in one tile has one
        data = jdcsuite.compress(photo(20, width), run, metadata={"icc": b"profile"}, grey=True, tile=64)
        contents = unpack(data)
        assert (contents.metadata, contents.colour, contents.tile) == ({"icc": b"profile"}, 1, tile)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (photo(8, 8).astype(np.float32), "convert it to uint8"),
        (np.full((8, 8, 3), np.nan), "NaN"),
        (photo(8, 8).astype(np.int64), "int64"),
        (photo(8, 8) > 9, "bool"),
        (photo(8, 8)[..., 0], r"np.stack"),
        (np.zeros((8, 8, 4), np.uint8), r"\(8, 8, 4\)"),
        (np.zeros((0, 8, 3), np.uint8), "empty"),
    ],
)
def test_arrays_that_are_not_images_are_refused_in_one_sentence(run, array, message):
    with pytest.raises(UserError, match=message) as error:
        jdcsuite.compress(array, run)
    assert "\n" not in str(error.value)


def test_other_types_than_arrays_are_refused():
    for given in ([[1, 2, 3]], torch.zeros(8, 8, 3, dtype=torch.uint8), "x.png"):
        with pytest.raises(UserError, match="numpy array"):
            compression._checked(given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metadata": {"xmp": b"x"}}, "icc and exif"),
        ({"metadata": {"icc": bytes(17 << 20)}}, "16 MiB"),
        ({"tile": 100}, "64"),
        ({"tile": 8192}, "4096"),
        ({"sigma": -1.0}, "noise level"),
    ],
)
def test_options_are_checked(run, options, message):
    with pytest.raises(UserError, match=message):
        jdcsuite.compress(photo(8, 8), run, **options)


def test_views_and_other_byte_orders_are_accepted(run):
    picture = photo(40, 30, deep=True)
    data = jdcsuite.compress(np.ascontiguousarray(picture[::2, ::-1]), run)
    assert jdcsuite.compress(picture[::2, ::-1], run) == data
    assert jdcsuite.compress(picture[::2, ::-1].astype(">u2"), run) == data


def test_weights_are_cached_until_their_file_changes(tmp_path):
    saved(tmp_path)
    first = compression.load(tmp_path)
    assert compression.load(str(tmp_path / "weights.safetensors")) is first
    saved(tmp_path, seed=1)
    os.utime(tmp_path / "weights.safetensors", ns=(1, 1))
    assert compression.load(tmp_path).model_id != first.model_id


def test_weights_that_cannot_code_are_refused(run, tmp_path):
    with pytest.raises(UserError, match="no weights"):
        jdcsuite.compress(photo(8, 8), tmp_path)
    with pytest.raises(UserError, match="not a codec"):
        jdcsuite.compress(photo(8, 8), torch.nn.Conv2d(3, 3, 1))
    with pytest.raises(UserError, match="update"):
        jdcsuite.compress(photo(8, 8), FLLIC(**SHAPE))
    with pytest.raises(UserError, match="device nope"):
        jdcsuite.compress(photo(8, 8), run, device="nope")


def test_a_file_of_other_weights_names_both(run, tmp_path):
    other = saved(tmp_path, seed=3)
    data = jdcsuite.compress(photo(8, 8), run)
    with pytest.raises(CorruptFile) as error:
        jdcsuite.decompress(data, tmp_path)
    assert unpack(data).model_id.hex() in str(error.value) and other.model_id.hex() in str(error.value)


def test_weights_with_another_setting_have_another_id(run, tmp_path):
    saved(tmp_path, latent_gain=8.0)
    with pytest.raises(CorruptFile):
        jdcsuite.decompress(jdcsuite.compress(photo(8, 8), run), tmp_path)


def test_bytes_are_checked_before_weights_are_loaded():
    assert jdcsuite.CorruptFile is CorruptFile
    for data in (b"", b"JDC", b"no file", b"JDC\x02" + bytes(60)):
        with pytest.raises(jdcsuite.CorruptFile):
            jdcsuite.decompress(data, "no/such/weights")


def test_a_forged_file_is_corrupt(run):
    contents: Contents = unpack(jdcsuite.compress(photo(40, 40), run))
    tile = contents.tiles[0]
    for change in (
        {"tiles": [replace(tile, checksum=tile.checksum ^ 1)]},
        {"tiles": [replace(tile, segments=[tile.segments[0][:-1], *tile.segments[1:]])]},
        {"width": 30},
    ):
        with pytest.raises(CorruptFile):
            jdcsuite.decompress(pack(replace(contents, **change)), run)


def test_psnr():
    a = photo(30, 40)
    b = np.roll(a, 1)
    assert compression.psnr(a, a) == float("inf")
    expected = 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))
    assert compression.psnr(a, b) == pytest.approx(expected)


def test_importing_the_package_imports_no_libraries():
    code = "import jdcsuite, sys; jdcsuite.__all__; assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        jdcsuite.nope  # noqa: B018
