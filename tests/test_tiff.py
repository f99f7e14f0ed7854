"""TIFF files that hold more than one ordinary image are refused by the name of what would be dropped."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tifffile
from test_images import RGB

from jdcsuite.imaging.picture import Picture
from jdcsuite.imaging.read import read
from jdcsuite.types import UserError

GREY = RGB[..., 0].copy()
STACK = np.stack([GREY, GREY[::-1], GREY[:, ::-1]])


def refused(path: Path, words: str) -> None:
    """Both readers, that of training and that of `jdc compress`, refuse the file in one sentence with these words."""
    for reader in (read, Picture.read):
        with pytest.raises(UserError, match=words) as caught:
            reader(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_camera_s_raw_file_is_not_read_as_its_thumbnail(tmp_path: Path, bits: int) -> None:
    small, raw = RGB[::4, ::4].astype(f"uint{bits}"), GREY.astype(np.uint16)
    with tifffile.TiffWriter(tmp_path / "photo.dng") as file:
        file.write(small, subifds=1, photometric="rgb", subfiletype=1, metadata=None)
        file.write(raw, photometric=32803, subfiletype=0, metadata=None, extratags=[(33421, 3, 2, (2, 2), True)])
    with tifffile.TiffWriter(tmp_path / "marked.dng") as file:  # the full preview first, and no sub-image
        file.write(RGB, photometric="rgb", metadata=None, extratags=[(50706, 1, 4, (1, 4, 0, 0), True)])
    for name in ("photo.dng", "marked.dng"):
        refused(tmp_path / name, "raw sub-image")


def test_reduced_pages_sub_images_and_masks_are_named(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "reduced.tif", RGB, photometric="rgb", subfiletype=1)
    refused(tmp_path / "reduced.tif", "reduced-resolution page")
    with tifffile.TiffWriter(tmp_path / "sub.tif") as file:
        file.write(RGB, subifds=1, photometric="rgb", metadata=None)
        file.write(RGB[::-1].copy(), photometric="rgb", metadata=None)
    refused(tmp_path / "sub.tif", "holds sub-images")
    with tifffile.TiffWriter(tmp_path / "masked.tif") as file:
        file.write(RGB, photometric="rgb", metadata=None)
        file.write(GREY > 9, photometric="mask", subfiletype=4, metadata=None)
    refused(tmp_path / "masked.tif", "transparency mask")


def test_a_pyramid_whose_sub_images_are_reduced_copies_is_read(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as file:
        file.write(RGB, subifds=1, photometric="rgb", metadata=None)
        file.write(RGB[::2, ::2].copy(), photometric="rgb", subfiletype=1, metadata=None)
    np.testing.assert_array_equal(read(tmp_path / "pyramid.tif"), RGB)


@pytest.mark.parametrize("samples", [np.uint8, np.uint16])
def test_stacks_under_one_directory_are_refused(tmp_path: Path, samples: type) -> None:
    stack = STACK.astype(samples)
    tifffile.imwrite(tmp_path / "imagej.tif", stack, imagej=True, metadata={"axes": "ZYX"}, truncate=True)
    tifffile.imwrite(tmp_path / "shaped.tif", stack, photometric="minisblack", truncate=True)
    tifffile.imwrite(tmp_path / "volume.tif", stack, volumetric=True, photometric="minisblack")
    for name in ("imagej.tif", "shaped.tif", "volume.tif"):
        refused(tmp_path / name, "a stack of 3 images")
    tifffile.imwrite(tmp_path / "one.tif", stack[:1], imagej=True, metadata={"axes": "ZYX"})
    assert Picture.read(tmp_path / "one.tif").grey


@pytest.mark.parametrize("samples", [np.uint8, np.uint16])
def test_unspecified_channels_are_refused(tmp_path: Path, samples: type) -> None:
    nir = np.dstack([RGB, GREY]).astype(samples)
    two = nir[..., :2].copy()
    tifffile.imwrite(tmp_path / "nir.tif", nir, photometric="rgb", extrasamples=["unspecified"])
    refused(tmp_path / "nir.tif", "4 channels, 1 of them unspecified")
    tifffile.imwrite(
        tmp_path / "two.tif", two, photometric="minisblack", planarconfig="contig", extrasamples=["unspecified"]
    )
    refused(tmp_path / "two.tif", "2 channels, 1 of them unspecified")
    tifffile.imwrite(
        tmp_path / "five.tif", np.dstack([nir, nir[..., :1]]), photometric="rgb", extrasamples=["unassalpha", 0]
    )
    refused(tmp_path / "five.tif", "5 channels, 2 of them unspecified")


def test_unreadable_compression_is_named(tmp_path: Path) -> None:
    for name in ("webp", "jpeg2000"):
        tifffile.imwrite(tmp_path / f"{name}.tif", RGB, photometric="rgb", compression=name)
        refused(tmp_path / f"{name}.tif", f"compressed with {name.upper()}")


@pytest.mark.parametrize(
    "options", [{"rowsperstrip": 4}, {"compression": "zlib", "rowsperstrip": 4}, {"tile": (16, 16)}]
)
def test_missing_strips_are_not_read_as_black(tmp_path: Path, options: dict) -> None:
    tifffile.imwrite(tmp_path / "x.tif", RGB, photometric="rgb", metadata=None, **options)
    np.testing.assert_array_equal(read(tmp_path / "x.tif"), RGB)
    with tifffile.TiffFile(tmp_path / "x.tif", mode="r+b") as file:
        length = file.pages.first.tags[257]
        length.overwrite(100)
    refused(tmp_path / "x.tif", "damaged or truncated")


def test_a_page_that_its_file_cannot_hold_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", RGB, photometric="rgb", metadata=None)
    with tifffile.TiffFile(tmp_path / "x.tif", mode="r+b") as file:
        for tag in (257, 278):  # of one strip
            file.pages.first.tags[tag].overwrite(9_000_000)
    tracemalloc.start()
    refused(tmp_path / "x.tif", "damaged or truncated")
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
