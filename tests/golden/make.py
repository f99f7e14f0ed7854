"""Writes the golden files: narrow codecs with random weights, images coded by them, and their decoded images.

    python tests/golden/make.py [--force]

`tests/test_golden.py` opens them on every machine and with every later version. Without `--force`, existing weights and
files are kept and only missing files are added. With it, all are rewritten, when the networks change on purpose. Files
of a released version are never replaced; new ones go to a new folder (`--out tests/golden/v3`).
"""

from __future__ import annotations

import argparse
import json
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate

from jdcsuite.artifacts import weights
from jdcsuite.coding.codec import Codec
from jdcsuite.coding.container import unpack
from jdcsuite.files import compression
from jdcsuite.imaging import atomic
from jdcsuite.imaging.depth import Depth
from jdcsuite.imaging.picture import Picture
from jdcsuite.imaging.write import encode
from jdcsuite.models.lcfdnet import LCFDNet

FLAGSHIP = {"widths": [4, 4], "blocks": [1, 1], "num_latents": 8, "prior_width": 2, "embedding": 4}
# folder -> class and its arguments
CODECS = {
    "fllic": ("fllic.FLLIC", {"widths": [4, 4, 4], "num_latents": 4, "prior_width": 2, "latent_gain": 64.0}),
    "flagship": ("flagship.Flagship", FLAGSHIP),  # as its first weights
    "flagship_denoiser": ("flagship.Flagship", {**FLAGSHIP, "denoiser": [4, 1], "magnitudes": True}),
    "flagship_post_filter": ("flagship.Flagship", {**FLAGSHIP, "post_filter": [4, 1]}),
    "flagship_four_passes": (
        "flagship.Flagship",
        {**FLAGSHIP, "magnitudes": True, "passes": 4, "residuals": "logistic"},
    ),
    "many_priors": ("manypriors.ManyPriors", {"num_channels": 4, "num_latents": 6, "num_priors": 5}),
    "many_priors_adaptive": (
        "manypriors.ManyPriors",
        {"num_channels": 4, "num_latents": 6, "num_priors": 5, "index_cost": "adaptive"},
    ),
    "testolina": ("testolina.Testolina", {"num_channels": 4, "num_latents": 6}),
    "hyperprior": (
        "drop_in.DropIn",
        {"architecture": "MeanScaleHyperprior", "num_channels": 4, "num_latents": 6},
    ),
}
# encoder settings of the any-rate codecs by image; other images are coded with the defaults
SETTINGS = {
    "rgb8": {"quality": 90, "sigma": 6.5},
    "tiles": {"quality": 61.7, "strength": 0.5},
    "rgb16": {"quality": 100, "sigma": 0},
    "grey8": {"quality": 0, "sigma": 55},
    "flat": {"quality": 50, "strength": 0, "sigma": 3},
}
# networks that are initialised with zeros and are not among the `prior_networks`
ZERO_INITIALISED = {"flagship": ("gain_a", "gain_s", "fine_a.0.scale", "coarse_s.0.scale")}
ZERO_INITIALISED["flagship_denoiser"] = (*ZERO_INITIALISED["flagship"], "denoiser.blocks.0.scale", "denoiser.leave")
ZERO_INITIALISED["flagship_post_filter"] = (
    *ZERO_INITIALISED["flagship"], "post_filter.blocks.0.scale", "post_filter.leave",
)  # fmt: skip
ZERO_INITIALISED["flagship_four_passes"] = ZERO_INITIALISED["flagship"]
MAX_WEIGHTS = 250_000  # bytes
LCFDNET = "lcfdnet"  # its weights exceed that at any width, so `numbered` makes them again
WEIGHTS, LIST = "weights.safetensors", "golden.json"


def images(codec: str) -> dict[str, tuple[np.ndarray, dict[str, object]]]:
    """Name -> samples and options. Integer arithmetic only, because libraries may round floating point differently."""
    tile = 192 if codec == "testolina" else 64  # the smallest that it supports
    y, x = np.mgrid[: 2 * tile + 22, : 2 * tile + 2]
    c = np.arange(3)
    ramps = (3 * y[..., None] + 2 * x[..., None] * (c + 1)) // 5
    noise = np.random.RandomState(0).randint(-9, 10, ramps.shape)
    rgb = np.clip(ramps % 230 + 12 + noise, 0, 255).astype(np.uint8)
    deep = (rgb.astype(np.uint16) << 8) + np.random.RandomState(1).randint(0, 256, rgb.shape).astype(np.uint16)
    images = {
        "rgb8": (rgb[:96, :80], {}),
        "tiles": (rgb, {"tile": tile}),
        "rgb16": (deep[:65, :70], {}),
        "grey8": (
            np.repeat(rgb[:40, :50, :1], 3, -1),
            {"grey": True, "metadata": {"icc": b"no real profile", "exif": b"MM\0*\0\0\0\x08\0\0"}},
        ),
        "grey16": (np.repeat(deep[:33, :20, :1], 3, -1), {"grey": True, "depth": Depth()}),  # dark
        "one": (rgb[7:8, 9:10], {}),
        "flat": (np.full((100, 200, 3), 200, np.uint8), {}),
        "line": (rgb[:1], {}),
        "rgb12": (deep[:65, :70] >> 4, {}),
        "grey12": (np.repeat(deep[110:143, 100:120, 2:] >> 4 << 4, 3, -1), {"grey": True}),
    }
    settings = SETTINGS if codec.startswith("flagship") else {}
    return {
        name: (pixels, options | settings.get(name, {}))
        for name, (pixels, options) in images.items()
        if codec != LCFDNET or pixels.dtype == np.uint8
    }


def codec(folder: Path) -> Path | Codec:
    """What its files decode with: stored weights, or numbered ones."""
    return numbered() if folder.name == LCFDNET else folder / WEIGHTS


@cache
def numbered() -> LCFDNet:
    """A narrow LC-FDNet, each tensor of which is multiples of 2**-10 drawn by NumPy's frozen legacy generator, seeded
    by the name of the tensor."""
    net = LCFDNet(hidden=2)
    for name, tensor in net.state_dict().items():
        random = np.random.RandomState(zlib.crc32(name.encode()))
        low, high = (512, 1536) if name.endswith((".gamma", ".var")) else (-400, 401)
        tensor.copy_(torch.from_numpy(random.randint(low, high, tuple(tensor.shape)) / 1024))
    net.eval().update()
    return net


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--force", action="store_true")
    args = parser.parse_args()
    make_files(args.out / LCFDNET, force=args.force)
    for name, (target, shape) in CODECS.items():
        folder = args.out / name
        folder.mkdir(parents=True, exist_ok=True)
        if args.force or not (folder / WEIGHTS).exists():
            make_weights(folder, f"jdcsuite.models.{target}", shape)
            (folder / LIST).unlink(missing_ok=True)
        make_files(folder)


@torch.no_grad()
def make_weights(folder: Path, target: str, shape: dict[str, object]) -> None:
    torch.manual_seed(0)
    codec = instantiate({"_target_": target, **shape}, _convert_="all").eval()
    # as after training: no parameters near zero
    for part in (*codec.prior_networks, *ZERO_INITIALISED.get(folder.name, ())):
        for parameter in codec.get_submodule(part).parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    for name, buffer in codec.named_buffers():
        if name == "prior_y.seen" and shape.get("index_cost") == "adaptive":  # as counted in training
            buffer.copy_(torch.randint(0, 100, buffer.shape))
    codec.update()
    stored = folder / WEIGHTS
    weights.save(codec, {"_target_": target, **shape}, stored, about={"run": "golden"})
    assert stored.stat().st_size < MAX_WEIGHTS, f"{stored.stat().st_size} bytes of weights"
    print(f"{folder.name}: {stored.stat().st_size} bytes of weights, {codec.model_id.hex()}")


def make_files(folder: Path, *, force: bool = False) -> None:
    stored, record = codec(folder), folder / LIST
    listed = json.loads(record.read_text())["files"] if record.exists() and not force else {}
    folder.mkdir(parents=True, exist_ok=True)
    for name, (pixels, options) in images(folder.name).items():
        if name in listed:
            continue
        data = compression.compress(pixels, stored, **options)
        decoded = compression.decompress(data, stored)
        contents = unpack(data)
        png = folder / f"{name}.png"
        atomic.write(folder / f"{name}.jdc", data)
        atomic.write(png, encode(Picture(decoded, bool(contents.colour)), png))
        # checksums are recorded separately because symbols must never differ
        listed[name] = {"bytes": len(data), "checksums": [tile.checksum for tile in contents.tiles]}
        print(f"{name}: {pixels.shape[0]} x {pixels.shape[1]}, {len(data)} bytes, {len(contents.tiles)} tiles")
    listed = {"model_id": compression.load(stored).model_id.hex(), "files": listed}
    atomic.write(record, (json.dumps(listed, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
