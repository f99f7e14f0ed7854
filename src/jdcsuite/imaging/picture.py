"""Image file of 8 or 16 bits -> pixels and metadata, nothing lost: what `jdc compress` reads.

`read.read` is for training, which wants 8-bit RGB and nothing else. This reader keeps 16-bit samples (Pillow drops
their low bytes), whether the image is grey, its ICC profile and its EXIF. It refuses the same files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import UInt8, UInt16
from PIL import Image

from jdcsuite.imaging import metadata
from jdcsuite.imaging.depth import Depth
from jdcsuite.imaging.lossless import load_imagecodecs
from jdcsuite.imaging.read import MAX_PIXELS, open_image, sample_bits, to_rgb, transparency
from jdcsuite.types import UserError

_MAX_SAMPLE_VALUE = 281  # tag

_UPRIGHT = {  # what undoes each EXIF orientation; 1 and codes outside the standard need nothing
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: np.rot90(a, 1),
}


@dataclass(frozen=True)
class Picture:
    """``pixels``: upright RGB. ``grey``: the file had one channel (here replicated).
    ``metadata``: "icc" -> profile, "exif" -> a TIFF stream of upright orientation, as far as the file has them.
    ``declared``: largest sample according to the file (TIFF's MaxSampleValue), None if it does not say.
    ``lost_colour``: what the file says of its colours beside, as "gAMA 1", and a `.jdc` file cannot hold."""

    pixels: UInt8[np.ndarray, "h w 3"] | UInt16[np.ndarray, "h w 3"]
    grey: bool = False
    metadata: dict[str, bytes] = field(default_factory=dict)
    declared: int | None = None
    lost_colour: tuple[str, ...] = ()

    @property
    def bit_depth(self) -> int:
        return 8 * self.pixels.itemsize

    @cached_property
    def depth(self) -> Depth:
        """Which bits of 16-bit samples are used."""
        return Depth.of(self.pixels, self.declared)

    @property
    def full_scale(self) -> UInt8[np.ndarray, "h w 3"] | UInt16[np.ndarray, "h w 3"]:
        """The pixels as a codec or denoiser should see them: white is the largest value of their type."""
        return self.depth.full_scale(self.pixels)

    @classmethod
    def read(cls, path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Picture:
        """Read an image file of 8 or 16 bits per sample. UserError as `read.read`, but only above 16 bits."""
        path = Path(path)
        with open_image(path, max_pixels=max_pixels, max_bits=16) as image:
            if sample_bits(image, path) == 16:
                pixels, grey = _deep(image, path)
            else:
                pixels, grey = to_rgb(image, path), image.mode in ("1", "L", "LA")
            return cls(pixels, grey, metadata.read(image), _declared(image), metadata.lost_colour(image, path))


def _deep(image: Image.Image, path: Path) -> tuple[UInt16[np.ndarray, "h w 3"], bool]:
    """Upright 16-bit samples, decoded by libpng or tifffile, and whether they are grey."""
    if image.format == "PNG":
        samples = load_imagecodecs().png_decode(path.read_bytes())
        samples = samples[..., None] if samples.ndim == 2 else samples
    else:
        samples = _deep_tiff(path)
    if samples.dtype != np.uint16:
        raise ValueError(f"{samples.dtype} samples in a file of 16 bits")
    if samples.shape[-1] in (2, 4):
        if samples[..., -1].min() < 65535:
            raise UserError(transparency(path))
        samples = samples[..., :-1]
    grey = samples.shape[-1] == 1
    samples = np.broadcast_to(samples, (*samples.shape[:2], 3))
    return np.ascontiguousarray(_UPRIGHT.get(image.getexif().get(metadata.ORIENTATION), np.asarray)(samples)), grey


def _deep_tiff(path: Path) -> np.ndarray:
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        if page.photometric not in (0, 1, 2):
            raise UserError(f"{path} is a {page.photometric.name} image and only RGB and grey are supported.")
        # not Pillow's size, which is rotated for some TIFFs
        size, channels = (page.imagelength, page.imagewidth), page.samplesperpixel
        if page.planarconfig == 2:
            samples = np.moveaxis(page.asarray().reshape(channels, *size), 0, -1)
        else:
            samples = page.asarray().reshape(*size, channels)
        return np.uint16(65535) - samples if page.photometric == 0 else samples


def _declared(image: Image.Image) -> int | None:
    values = image.tag_v2.get(_MAX_SAMPLE_VALUE) if image.format == "TIFF" else None
    values = values if isinstance(values, tuple) else (values,)
    return max(values) if all(isinstance(value, int) for value in values) else None
