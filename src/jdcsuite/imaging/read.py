"""Image files -> 8-bit RGB arrays.

A picture is read as an ordinary viewer shows it, or refused in one sentence: nothing is dropped silently (low
bytes of 16-bit samples, transparency, further pages). Colour profiles are not applied.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files as package_files
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from jdcsuite.types import UserError

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"})
MAX_PIXELS = 300_000_000

# The colour photographs inside scikit-image's wheel. Left out: motorcycle_right (the left one again, a step
# aside), hubble_deep_field (nearly all of it black), color and logo (drawings).
EMBEDDED = {
    "train": ("astronaut.png", "ihc.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg"),
    "test": ("chelsea.png", "coffee.png"),
}

# Other decoders of Pillow (AVIF, JPEG 2000 ...) cut deep samples to 8 bits without a trace.
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa"})

# Pillow warns at 89 and refuses at 179 megapixels, less than real scans have. `read` holds its own limit.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def read(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "h w 3"]:
    """An image file as 8-bit RGB, upright: grey replicated, palettes looked up, opaque alpha dropped.

    UserError, naming the file and the cure: no such file, not an image, damaged or cut off, more than
    ``max_pixels`` (refused before a pixel is decoded), more than 8 bits a sample, CMYK or another colour
    space, real transparency, several frames.
    """
    with opened(path, max_pixels=max_pixels) as image:
        return eight_bit_rgb(image, Path(path))


@contextmanager
def opened(path: str | Path, *, max_pixels: int = MAX_PIXELS, deepest: int = 8) -> Iterator[Image.Image]:
    """An image file, its header read and judged, its pixels not yet decoded; ``deepest``: bits a sample at most.

    Whatever goes wrong here or in the body comes out as a UserError that names the file and the cure.
    """
    path = Path(path)
    try:
        # An open file, not a path: Pillow (13.0 too) scrambles turned TIFFs where it maps a path into memory.
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                raise UserError(f"{path} is empty (0 bytes): copy or download it again, or remove it.")
            with Image.open(file, formats=_FORMATS) as image:
                if image.width * image.height > max_pixels:
                    raise Image.DecompressionBombError
                if complaint := _complaint(image, path, deepest):
                    raise UserError(f"{path} {complaint}")
                yield image
    except (UserError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: check the path.") from error
    except (IsADirectoryError, PermissionError) as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give a readable image file.") from error
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{path} has more than {max_pixels / 1e6:g} megapixels: cut it into parts or scale it down first."
        ) from error
    except UnidentifiedImageError as error:
        kinds = "an 8-bit" if deepest == 8 else f"an 8- or {deepest}-bit"
        raise UserError(
            f"{path} is not {kinds} PNG, JPEG, WebP, TIFF or BMP picture: convert it to PNG, or remove it."
        ) from error
    except Exception as error:  # a damaged file makes Pillow raise nearly any type
        raise UserError(f"{path} is damaged or cut off ({error}): copy or download it again.") from error


def eight_bit_rgb(image: Image.Image, path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of an opened file of 8 bits a sample, upright."""
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:
            raise UserError(transparent(path))
    return np.array(image.convert("RGB"))


def transparent(path: Path) -> str:
    return (
        f"{path} has transparent pixels: lay it on a background first, "
        f"e.g. `magick {path.name} -background white -flatten flat.png`."
    )


def _complaint(image: Image.Image, path: Path, deepest: int) -> str | None:
    """Why an opened, not yet decoded file is refused, and the cure."""
    bits, signed = sample_bits(image, path), False
    if image.format == "TIFF":
        signed = any(kind != 1 for kind in image.tag_v2.get(339, (1,)))
    deep = deepest > 8 and bits == deepest
    if (bits > 8 and not deep) or signed or (image.mode.startswith(("I", "F")) and not deep):
        kind = " signed or floating-point" if signed or bits <= 8 else ""
        what = f"{bits}-bit{kind}"
        known = "8-bit" if deepest == 8 else f"8- and {deepest}-bit"
        cure = f"convert it first, e.g. `magick {path.name} -depth {deepest} {'eight' if deepest == 8 else 'deep'}.png`"
        return f"has {what} samples and only {known} pictures are handled: {cure}."
    if image.mode not in _MODES and not (deep and image.mode.startswith("I;16")):
        cure = f"convert it first, e.g. `magick {path.name} -colorspace sRGB rgb.png`"
        return f"is a {image.mode} picture and only RGB and grey are handled: {cure}."
    # An MPO is a camera's JPEG with previews behind it: every viewer shows the first picture alone.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        return f"holds {frames} frames or pages: save the one you want as a file of its own."
    return None


def sample_bits(image: Image.Image, path: Path) -> int:
    """Bits a sample as the file says: Pillow opens 16-bit RGB in mode "RGB" and drops the low bytes."""
    if image.format == "PNG":
        with path.open("rb") as file:  # signature 8, chunk head 8, width 4, height 4, then the bit depth
            return file.read(25)[24]
    return max(image.tag_v2.get(258, (8,))) if image.format == "TIFF" else 8


def exif_iso(path: str | Path) -> int | None:
    """The ISO that a picture's EXIF says, None where it says none; only the file's header is read. UserError as
    `read`."""
    with opened(path) as image:
        # Pillow would decode a whole PNG to find an eXIf chunk behind its pixels
        if image.format == "PNG" and not {"exif", "Raw profile type exif"} & set(image.info):
            return None
        said = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ISOSpeedRatings)
    said = said[0] if isinstance(said, tuple) and said else said
    return said if isinstance(said, int) and said > 0 else None


def files(folder: str | Path) -> list[Path]:
    """The image files under a folder and its subfolders, known by extension, sorted; hidden ones left out."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"The image folder {folder} does not exist: check the path, or fetch the data first.")
    found = {
        path.relative_to(folder): path
        for path in folder.rglob("*")
        if path.suffix.lower() in EXTENSIONS and path.is_file()
    }
    kept = [found[name] for name in sorted(found) if not any(part.startswith(".") for part in name.parts)]
    if not kept:
        wanted = " ".join(sorted(EXTENSIONS))
        raise UserError(f"The image folder {folder} holds no picture ({wanted}): fill it or name another one.")
    return kept


def embedded(split: str) -> list[tuple[str, UInt8[np.ndarray, "_ _ 3"]]]:
    """Names and pixels of the photographs that need no download; ``split``: train or test."""
    if split not in EMBEDDED:
        raise UserError(f"There is no embedded split {split!r}: choose train or test.")
    folder = Path(str(package_files("skimage"))) / "data"
    return [(name, read(folder / name)) for name in EMBEDDED[split]]
