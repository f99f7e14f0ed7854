"""Writes the golden files: narrow weights with random values, pictures coded by them, and what they decode to.

    python tests/golden/make.py [--force]

`tests/test_golden.py` opens them on every machine and with every later version. They are made anew only when the
format or the networks change on purpose, which is what `--force` says; files of a released version are never replaced
but joined by others (give a new folder: `--out tests/golden/v3`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate

from jdcsuite.artifacts import weights
from jdcsuite.coding.container import unpack
from jdcsuite.files import compression
from jdcsuite.imaging import atomic
from jdcsuite.imaging.picture import Picture
from jdcsuite.imaging.write import encode

# folder -> class and what builds it
CODECS = {
    "fllic": ("fllic.FLLIC", {"widths": [4, 4, 4], "num_latents": 4, "prior_width": 2, "latent_gain": 64.0}),
    "flagship": (
        "flagship.Flagship",
        {"widths": [4, 4], "blocks": [1, 1], "num_latents": 8, "prior_width": 2, "embedding": 4},
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
# what a codec asks for beside pixels; the other pictures are coded as it chooses
ASKED = {
    "flagship": {
        "rgb8": {"quality": 90, "sigma": 6.5},
        "tiles": {"quality": 61.7, "strength": 0.5},
        "rgb16": {"quality": 100, "sigma": 0},
        "grey8": {"quality": 0, "sigma": 55},
        "flat": {"quality": 50, "strength": 0, "sigma": 3},
    }
}
# networks that begin at zero and stand outside `between`
AT_ZERO = {"flagship": ("gain_a", "gain_s", "fine_a.0.scale", "coarse_s.0.scale")}
MOST = 250_000  # bytes of weights


def pictures(codec: str) -> dict[str, tuple[np.ndarray, dict[str, object]]]:
    """Name -> samples and options. No floating point that a library could round otherwise: integers alone."""
    tile = 192 if codec == "testolina" else 64  # the least that it takes
    y, x = np.mgrid[: 2 * tile + 22, : 2 * tile + 2]
    c = np.arange(3)
    ramps = (3 * y[..., None] + 2 * x[..., None] * (c + 1)) // 5
    noise = np.random.RandomState(0).randint(-9, 10, ramps.shape)
    rgb = np.clip(ramps % 230 + 12 + noise, 0, 255).astype(np.uint8)
    deep = (rgb.astype(np.uint16) << 8) + np.random.RandomState(1).randint(0, 256, rgb.shape).astype(np.uint16)
    made = {
        "rgb8": (rgb[:96, :80], {}),
        "tiles": (rgb, {"tile": tile}),
        "rgb16": (deep[:65, :70], {}),
        "grey8": (
            np.repeat(rgb[:40, :50, :1], 3, -1),
            {"grey": True, "metadata": {"icc": b"no real profile", "exif": b"MM\0*\0\0\0\x08\0\0"}},
        ),
        "grey16": (np.repeat(deep[:33, :20, :1], 3, -1), {"grey": True}),
        "one": (rgb[7:8, 9:10], {}),
        "flat": (np.full((100, 200, 3), 200, np.uint8), {}),
        "line": (rgb[:1], {}),
    }
    asked = ASKED.get(codec, {})
    return {name: (pixels, options | asked.get(name, {})) for name, (pixels, options) in made.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--force", action="store_true")
    given = parser.parse_args()
    for name, (target, shape) in CODECS.items():
        folder = given.out / name
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "weights.safetensors").exists() and not given.force:
            print(f"{folder} holds golden files, which are kept: see --help")
            continue
        make(folder, f"jdcsuite.models.{target}", shape)


@torch.no_grad()
def make(folder: Path, target: str, shape: dict[str, object]) -> None:
    torch.manual_seed(0)
    codec = instantiate({"_target_": target, **shape}, _convert_="all").eval()
    # as after training: nothing near the start's zeros
    for part in (*codec.prior_networks, *AT_ZERO.get(folder.name, ())):
        for parameter in codec.get_submodule(part).parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    for name, buffer in codec.named_buffers():
        if name == "prior_y.seen" and shape.get("index_cost") == "adaptive":  # as training would have counted
            buffer.copy_(torch.randint(0, 100, buffer.shape))
    codec.update()
    stored = folder / "weights.safetensors"
    weights.save(codec, {"_target_": target, **shape}, stored, about={"run": "golden"})
    assert stored.stat().st_size < MOST, f"{stored.stat().st_size} bytes of weights"
    listed = {}
    for name, (pixels, options) in pictures(folder.name).items():
        data = compression.compress(pixels, stored, **options)
        decoded = compression.decompress(data, stored)
        contents = unpack(data)
        png = folder / f"{name}.png"
        atomic.write(folder / f"{name}.jdc", data)
        atomic.write(png, encode(Picture(decoded, bool(contents.colour)), png))
        # the symbols may never differ, so their checksums are kept apart from the files
        listed[name] = {"bytes": len(data), "checksums": [tile.checksum for tile in contents.tiles]}
        print(f"{name}: {pixels.shape[0]} x {pixels.shape[1]}, {len(data)} bytes, {len(contents.tiles)} tiles")
    listed = {"model_id": codec.model_id.hex(), "files": listed}
    atomic.write(folder / "golden.json", (json.dumps(listed, indent=1) + "\n").encode())
    print(f"{folder.name}: {stored.stat().st_size} bytes of weights, {codec.model_id.hex()}")


if __name__ == "__main__":
    main()
