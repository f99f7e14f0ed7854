"""Image file -> 8-bit RGB array.

An image is read as an ordinary viewer shows it, or refused with one sentence. Nothing is dropped silently: neither the
low bytes of 16-bit samples, nor transparency, nor further pages. Colour profiles are not applied.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files as package_files
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from jdcsuite.imaging import metadata, tiff
from jdcsuite.types import UserError

MAX_PIXELS = 300_000_000

# The colour photographs inside scikit-image's wheel. Left out: motorcycle_right (nearly the same view as
# motorcycle_left), hubble_deep_field (mostly black), color and logo (drawings).
EMBEDDED = {
    "train": ("astronaut.png", "ihc.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg"),
    "test": ("chelsea.png", "coffee.png"),
}

# Pillow's other decoders (AVIF, JPEG 2000, PPM, ...) reduce deep samples to 8 bits without notice.
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa"})
_BITS_PER_SAMPLE, _SAMPLE_FORMAT = 258, 339  # TIFF tags

# Pillow warns at 89 and refuses at 179 megapixels, less than real scans have; `open_image` has its own limit.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
PngImagePlugin.MAX_TEXT_CHUNK = 16 << 20  # bytes of an ICC profile, as many as a .jdc file holds; Pillow's: 1 MiB
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def read(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "h w 3"]:
    """An image file as upright 8-bit RGB: grey is replicated, palettes are looked up, opaque alpha is dropped.

    UserError, naming the file and what to do: no such file, not an image, damaged or truncated, more than
    ``max_pixels`` (refused before decoding), more than 8 bits per sample, CMYK or another colour space, transparent
    pixels, several frames.
    """
    with open_image(path, max_pixels=max_pixels) as image:
        return to_rgb(image, Path(path))


@contextmanager
def open_image(path: str | Path, *, max_pixels: int = MAX_PIXELS, max_bits: int = 8) -> Iterator[Image.Image]:
    """Open an image file and check its header, without decoding pixels; ``max_bits``: per sample, 8 or 16.

    Every error here or in the body, except MemoryError, becomes a UserError that names the file and what to do.
    """
    path = Path(path)
    try:
        # An open file, not a path: Pillow (13.0 too) scrambles rotated TIFFs when it memory-maps a path.
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                raise UserError(f"{path} is empty (0 bytes): copy or download it again, or remove it.")
            if file.read(4) in tiff.MAGIC and (problem := tiff.problem(path)):
                raise UserError(f"{path} {problem}")
            file.seek(0)
            with Image.open(file, formats=_FORMATS) as image:
                if image.width * image.height > max_pixels:
                    raise Image.DecompressionBombError
                if not metadata.is_exif(image.info.get("exif", b"II*\0")):
                    del image.info["exif"]  # Pillow would refuse the image for it
                if problem := _unsupported(image, path, max_bits):
                    raise UserError(f"{path} {problem}")
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
        depth = "an 8-bit" if max_bits == 8 else f"an 8- or {max_bits}-bit"
        raise UserError(
            f"{path} is not {depth} PNG, JPEG, WebP, TIFF or BMP image: convert it to PNG, or remove it."
        ) from error
    except Exception as error:  # on damaged files, Pillow raises nearly any type
        raise UserError(f"{path} is damaged or truncated ({error}): copy or download it again.") from error


def to_rgb(image: Image.Image, path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Upright RGB pixels of an opened file of 8 bits per sample. UserError: transparent pixels, damaged JPEG data."""
    if image.format in ("JPEG", "MPO"):
        from jdcsuite.imaging import jpeg  # numba takes half a second to import

        if damage := jpeg.damage(path.read_bytes()):
            raise UserError(f"{path} is damaged or truncated ({damage}): copy or download it again.")
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:
            raise UserError(transparency(path))
    return np.array(image.convert("RGB"))


def transparency(path: Path) -> str:
    """Why an image with transparent pixels is refused."""
    return (
        f"{path} has transparent pixels: put it on a background first, "
        f"e.g. `magick {path.name} -background white -flatten flat.png`."
    )


def _unsupported(image: Image.Image, path: Path, max_bits: int) -> str | None:
    """Why an opened image is refused and what to do; None if it is supported."""
    bits, signed = sample_bits(image, path), False
    if image.format == "TIFF":
        signed = any(kind != 1 for kind in image.tag_v2.get(_SAMPLE_FORMAT, (1,)))
    deep = max_bits > 8 and bits == max_bits
    if (bits > 8 and not deep) or signed or (image.mode.startswith(("I", "F")) and not deep):
        kind = " signed or floating-point" if signed or bits <= 8 else ""
        supported, target = ("8-bit", "eight") if max_bits == 8 else (f"8- and {max_bits}-bit", "deep")
        return (
            f"has {bits}-bit{kind} samples and only {supported} images are supported: convert it first, "
            f"e.g. `magick {path.name} -depth {max_bits} {target}.png`."
        )
    if image.mode not in _MODES and not (deep and image.mode.startswith("I;16")):
        return (
            f"is a {image.mode} image and only RGB and grey are supported: convert it first, "
            f"e.g. `magick {path.name} -colorspace sRGB rgb.png`."
        )
    # An MPO is a camera's JPEG followed by previews; every viewer shows its first image only.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    return f"holds {frames} frames or pages: save the one you want as a separate file." if frames > 1 else None


def sample_bits(image: Image.Image, path: Path) -> int:
    """Bits per sample according to the file: Pillow opens 16-bit RGB in mode "RGB" and drops the low bytes."""
    if image.format == "PNG":
        with path.open("rb") as file:  # signature 8, chunk head 8, width 4, height 4, then the bit depth
            return file.read(25)[24]
    return max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))) if image.format == "TIFF" else 8


def exif_iso(path: str | Path) -> int | None:
    """ISO in the EXIF of an image, None if there is none; only the header is read. UserError as `read`."""
    with open_image(path) as image:
        # To find an eXIf chunk behind the pixels, Pillow would decode the whole PNG.
        if image.format == "PNG" and not {"exif", "Raw profile type exif"} & set(image.info):
            return None
        iso = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ISOSpeedRatings)
    iso = iso[0] if isinstance(iso, tuple) and iso else iso
    return iso if isinstance(iso, int) and iso > 0 else None


def embedded(split: str) -> list[tuple[str, UInt8[np.ndarray, "_ _ 3"]]]:
    """Names and pixels of the photographs that need no download; ``split``: train or test."""
    if split not in EMBEDDED:
        raise UserError(f"There is no embedded split {split!r}: choose train or test.")
    folder = Path(str(package_files("skimage"))) / "data"
    return [(name, read(folder / name)) for name in EMBEDDED[split]]
