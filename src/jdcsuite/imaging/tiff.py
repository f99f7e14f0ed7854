"""TIFF file -> why it is refused: what it holds beyond one ordinary image, which a reader would drop silently."""

from __future__ import annotations

import logging
from math import prod
from pathlib import Path

import tifffile
from PIL import TiffImagePlugin

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
_DNG_VERSION = 50706  # tag
_CFA, _LINEAR_RAW = 32803, 34892  # photometric interpretations of raw sensor data
_CMYK, _WEBP = 5, 50001
_ONE_CHANNEL = (0, 1, 3)  # photometric interpretations: grey, grey, palette
_ALPHA = (1, 2)  # extra samples: associated, unassociated

# tifffile logs what it finds unusual; here it is refused in a sentence, or harmless.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


def problem(path: Path) -> str | None:
    """Why a TIFF is refused and what to do, to follow its name; None if its first page is all that it holds, or
    further pages are ordinary ones. Any exception: the file is damaged. Only directories are read, no pixels."""
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        _check_extent(page, path.stat().st_size)
        sub_images = list(page.pages or ())
        if _DNG_VERSION in page.tags or any(p.photometric in (_CFA, _LINEAR_RAW) for p in (page, *sub_images)):
            return (
                "is a camera's raw file, whose raw sub-image is not read: develop it to a 16-bit TIFF or PNG first, "
                "with a raw converter."
            )
        if page.is_reduced:
            return (
                "begins with a reduced-resolution page (a thumbnail): save the full image as the only page of a "
                "file, or convert it with the raw converter if it comes from a camera."
            )
        if any(not sub.is_reduced for sub in sub_images):
            return "holds sub-images beside its first page: save each as a file of its own."
        if any(int(other.subfiletype) & 4 for other in file.pages[1:]):
            return (
                "holds a transparency mask beside the image: apply it or remove it first, "
                f"e.g. `magick '{path.name}[0]' flat.png`."
            )
        if len(file.pages) == 1 and (images := _images(file, page)) > 1:
            return f"holds a stack of {images} images: save each as a file of its own."
        if extra := _unspecified_channels(page):
            return (
                f"has {page.samplesperpixel} channels, {extra} of them unspecified (neither colour nor transparency): "
                "save those as separate files."
            )
        if page.compression == _WEBP or int(page.compression) not in TiffImagePlugin.COMPRESSION_INFO:
            name = getattr(page.compression, "name", page.compression)
            return f"is compressed with {name}, which is not read: save it with LZW, deflate or no compression."
    return None


def _check_extent(page: tifffile.TiffPage, size: int) -> None:
    """ValueError for a page whose pixels are not all in a file of ``size`` bytes: Pillow leaves missing strips black,
    and allocates all of a page first."""
    depth = page.bitspersample if isinstance(page.bitspersample, int) else min(page.bitspersample)  # of mixed channels
    bits = page.imagewidth * page.imagelength * page.imagedepth * page.samplesperpixel * depth
    height, width = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    chunks = -(-page.imagelength // height) * -(-page.imagewidth // width)
    present = len(page.tags[324 if page.is_tiled else 273].value) if chunks > 1 else 1
    if present < chunks or (page.compression == 1 and bits > 8 * size):
        raise ValueError("pixels are missing")


def _images(file: tifffile.TiffFile, page: tifffile.TiffPage) -> int:
    """Number of images that the only directory of a file stands for: ImageJ, tifffile, MetaMorph and volumetric TIFF
    describe a whole stack by one. OME does not, but its description may count the planes of other files."""
    series = page if file.is_ome else file.series[0]
    return prod(series.shape) // (page.imagelength * page.imagewidth * page.samplesperpixel)


def _unspecified_channels(page: tifffile.TiffPage) -> int:
    """Number of channels that are neither colour nor one alpha channel."""
    colours = 1 if page.photometric in _ONE_CHANNEL else 4 if page.photometric == _CMYK else 3
    extra = page.samplesperpixel - colours
    return 0 if extra == 1 and tuple(page.extrasamples)[:1] and int(page.extrasamples[0]) in _ALPHA else max(extra, 0)
