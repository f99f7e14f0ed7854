"""Rows and the images that runs keep -> crops of one test image by every codec, side by side, with maps of their error.

Standard codecs keep no images; theirs are coded again from the noisy image that a run keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from jdcsuite.artifacts.folder import picture_stem
from jdcsuite.baselines.cascade import denoise
from jdcsuite.baselines.denoisers import named as named_denoiser
from jdcsuite.baselines.external import EXTERNAL
from jdcsuite.baselines.standards import ladder, standard
from jdcsuite.imaging import atomic
from jdcsuite.imaging.pixels import to_bytes, to_tensor
from jdcsuite.judging.curves import noise_label, rung_label
from jdcsuite.judging.metrics import eight_bit
from jdcsuite.types import UserError

SIDE = 192  # pixels of a crop
ACROSS = 6  # crops in a row of a strip
FULL_ERROR = 32  # grey levels that an error map shows as white
QUICK = ("noisy", "nlm")  # what may precede a standard codec that is coded again; BM3D takes a minute


def example(rows: pd.DataFrame) -> list[tuple[str, UInt8[np.ndarray, "h w 3"]]]:
    """Captions and images: one test image noisy, decoded by one rung of each curve, and clean; empty without any.

    ``rows``: `results.read` with folders, where runs keep images as ``pictures/<dataset>_<image>_{noisy,decoded,clean}
    .png``. The image is the one that most curves have, of a set with noise where there is one. The rungs are those
    nearest in rate to the middle rung of the longest curve.
    """
    stems = pd.Series(map(picture_stem, rows["dataset"], rows["image"]), index=rows.index, dtype=object)
    rows = rows.assign(file=rows["folder"] + "/pictures/" + stems, which=stems + rows["sigma"].map(noise_label))
    rows["curve"] = rows["curve"].where(rows["curve"] != "", rows["method"])
    rows = rows.dropna(subset=["bpp", "psnr"])
    kept = rows[[Path(f"{file}_decoded.png").exists() for file in rows["file"]]]
    if kept.empty:
        return []
    noisy = kept[(kept["sigma"] != 0) & np.isfinite(kept["psnr_noisy"])]
    kept = kept if noisy.empty else noisy
    which = kept.groupby("which", sort=False)["curve"].nunique().idxmax()
    kept = kept[kept["which"] == which]
    first = kept.iloc[0]
    noisy_image, clean = (_load(first, kind) for kind in ("noisy", "clean"))
    if noisy_image is None or clean is None:
        return []
    images = [(f"noisy, {noise_label(first['sigma'])}\n{_db(first['psnr_noisy'])}", noisy_image)]
    same_image = rows[rows["which"] == which].sort_values("bpp")
    longest = same_image[same_image["curve"] == kept["curve"].value_counts().idxmax()]
    rate = longest["bpp"].iloc[len(longest) // 2]
    for curve, points in same_image.groupby("curve", sort=False):
        own = kept[kept["curve"] == curve]
        points = own if len(own) else points
        row = points.loc[np.log(points["bpp"] / rate).abs().idxmin()]
        image = _load(row, "decoded") if len(own) else _coded_again(row, noisy_image)
        if image is not None and image.shape == clean.shape:
            row = _row_of(image, clean, own[own["file"] == row["file"]]) if len(own) else row
            title = f"{row['method']}, {rung_label(row['lmbda'], row['quality'], row['method'])}".strip(", ")
            images.append((f"{title}\n{row['bpp']:.3f} bpp, {_db(row['psnr'])}", image))
    return [*images, (f"clean\n{first['dataset']}, {first['image']}", clean)]


def _row_of(image: UInt8[np.ndarray, "h w 3"], clean: UInt8[np.ndarray, "h w 3"], rows: pd.DataFrame) -> pd.Series:
    """That of the ``rows`` of one run which ``image`` belongs to: a codec of any rate has several, and keeps one
    image."""
    with np.errstate(divide="ignore"):
        psnr = 20 * np.log10(255 / np.sqrt(np.square(image.astype(float) - clean).mean()))
    return rows.loc[(rows["psnr"].clip(upper=200) - min(psnr, 200)).abs().idxmin()]


def _load(row: pd.Series, kind: str) -> UInt8[np.ndarray, "h w 3"] | None:
    """None for a file that is missing or damaged."""
    try:
        return np.asarray(Image.open(f"{row['file']}_{kind}.png").convert("RGB"))
    except (OSError, SyntaxError, ValueError):  # SyntaxError: Pillow's, of damaged PNG files
        return None


def _db(psnr: float) -> str:
    return f"{psnr:.2f} dB" if np.isfinite(psnr) else "exact"


def _coded_again(row: pd.Series, noisy: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"] | None:
    """The image that a standard codec decoded for ``row``; None for what cannot be repeated quickly and exactly: other
    codecs, inputs that were not rounded to 8 bits, and other versions of a codec, which give another file."""
    before, _, name = row["method"].rpartition(" + ")
    if before not in QUICK or name in EXTERNAL or ladder(name) is None or row["noise_protocol"] == "float":
        return None
    x = to_tensor(noisy)[None]
    try:
        codec = standard(name, float(row["quality"] or 0))
        data = codec.compress(x if before == "noisy" else eight_bit(denoise(named_denoiser(before), x)))
        image = codec.decompress(data)
    except (UserError, ValueError):
        return None
    same = abs(8 * len(data) / noisy[..., 0].size - row["bpp"]) < 1e-6
    return to_bytes(image[0]) if same else None


def crop(image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "y x c"]:
    """The central 192 pixels of each side; all of a smaller side."""
    height, width = image.shape[:2]
    h, w = min(height, SIDE), min(width, SIDE)
    top, left = (height - h) // 2, (width - w) // 2
    return image[top : top + h, left : left + w]


def error_map(image: UInt8[np.ndarray, "h w 3"], clean: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    """The absolute error, mean of the three channels: black for none, white for `FULL_ERROR` grey levels or more."""
    error = np.abs(image.astype(float) - clean).mean(axis=2)
    return (255 * (error / FULL_ERROR).clip(max=1)).round().astype(np.uint8)


def strip(images: Sequence[tuple[str, np.ndarray]], path: Path) -> None:
    """Write the same crop of all images (uint8, h w 3) side by side, captions of two lines above, six in a row.

    A crop is enlarged by a whole factor of 2 or more, which makes the noise visible. ValueError: sizes differ, or
    images are not uint8 RGB.
    """
    height, width = images[0][1].shape[:2]
    if any(image.shape != (height, width, 3) or image.dtype != np.uint8 for _, image in images):
        raise ValueError("a strip takes uint8 RGB images of one size")
    h, w = crop(images[0][1]).shape[:2]
    zoom = max(1, 2 * SIDE // max(h, w))
    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), 15)
    gap, head = 8, 48
    cell = max(zoom * w, *(ceil(font.getlength(line)) for caption, _ in images for line in caption.split("\n")))
    across = min(ACROSS, len(images))
    line = head + zoom * h + gap
    sheet = Image.new("RGB", (gap + across * (cell + gap), ceil(len(images) / across) * line), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (caption, image) in enumerate(images):
        x, y = gap + i % across * (cell + gap), i // across * line
        shown = crop(image).repeat(zoom, axis=0).repeat(zoom, axis=1)
        sheet.paste(Image.fromarray(shown), (x, y + head))
        draw.text((x, y + head - 6), caption, fill="black", font=font, anchor="ld")
    with atomic.replacing(path) as part:
        sheet.save(part, "PNG")
