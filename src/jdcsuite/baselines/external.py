"""Image -> bytes -> image by command-line codecs that a user has installed: BPG, and VTM, the reference of H.266/VVC.

Each call runs in a temporary folder of its own, in which it leaves nothing, and ends after a time limit.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import tempfile
from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from jdcsuite import checks
from jdcsuite.imaging.pixels import to_bytes, to_tensor
from jdcsuite.types import NotInstalled, UserError

LIMIT = 3600.0  # seconds that one call may take; VTM codes about a megapixel in this time
VTM_CONFIG = "JDCSUITE_VTM_CONFIG"  # environment variable: path of encoder_intra_vtm.cfg
SIZE = struct.Struct("<HH")  # height and width, which a decoded YUV file does not state


class External(ABC):
    """A command-line codec at one QP, 4:4:4, with the interface of `Standard`. It makes no use of the noise level.

    ``quality``: the QP, lower is better. ``limit``: seconds. NotInstalled: a program is not on the PATH. UserError:
    a QP out of range."""

    codec: str
    largest: int  # QP
    ladder: tuple[int, ...]  # from the smallest to the largest file
    encoders: tuple[str, ...]  # names of the program, the first that is found is used
    decoders: tuple[str, ...]

    def __init__(self, *, quality: float | None, limit: float = LIMIT) -> None:
        if quality is None or quality != int(quality) or not 0 <= quality <= self.largest:
            listed = ", ".join(map(str, self.ladder))
            raise UserError(
                f"{self.codec} takes a whole-number QP from 0 to {self.largest} (lower is better), not {quality}; its "
                f"ladder: {listed}"
            )
        self.quality, self.limit = float(quality), checks.number("limit", limit, above=0)
        self.encoder, self.decoder = self.programs()

    @property
    def name(self) -> str:
        return self.codec

    @property
    def version(self) -> str:
        """E.g. "bpg bpgenc 0.9.8"; a program that states no version is named alone."""
        return f"{self.codec} {Path(self.encoder).name} {_version(self.encoder)}".rstrip()

    @classmethod
    def programs(cls) -> tuple[str, str]:
        """Paths of encoder and decoder."""
        paths = [next(filter(None, map(shutil.which, names)), None) for names in (cls.encoders, cls.decoders)]
        if None in paths:
            names = cls.encoders[0] if paths[0] is None else cls.decoders[0]
            raise NotInstalled(f"{cls.codec} needs the program {names}, which is not on the PATH")
        return tuple(paths)

    def compress(self, x: Float[Tensor, "1 3 h w"], *, sigma: float | None = None) -> bytes:
        """``x`` in [0, 1] is rounded to 8 bits. ``sigma`` is ignored. UserError: the program fails or takes too
        long."""
        with tempfile.TemporaryDirectory() as folder:
            return self.encode(to_bytes(x[0].detach()), Path(folder))

    def decompress(self, data: bytes) -> Float[Tensor, "1 3 h w"]:
        """The image in [0, 1], each sample k / 255, float32 on the CPU. UserError: bytes that the program refuses."""
        with tempfile.TemporaryDirectory() as folder:
            return to_tensor(self.decode(data, Path(folder)))[None]

    @abstractmethod
    def encode(self, image: UInt8[np.ndarray, "h w 3"], folder: Path) -> bytes:
        """``folder``: an empty one."""

    @abstractmethod
    def decode(self, data: bytes, folder: Path) -> UInt8[np.ndarray, "h w 3"]: ...

    def run(self, program: str, *arguments: str, folder: Path, out: str) -> Path:
        """Run a program; the file ``out`` that it has to write. UserError: it fails, or takes longer than the limit."""
        name, path = Path(program).name, folder / out
        try:
            done = subprocess.run(
                [program, *arguments], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=self.limit,
                check=False, env={**os.environ, "LC_ALL": "C"},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise UserError(f"{name} did not end within {self.limit:g} s: give a smaller image") from None
        except OSError as error:
            raise UserError(f"{name} cannot be run ({error.strerror})") from None
        if done.returncode or not path.is_file():
            lines = (done.stderr or done.stdout).decode(errors="replace").split("\n")
            reason = next((line.strip() for line in reversed(lines) if line.strip()), f"exit status {done.returncode}")
            raise UserError(f"{name} failed on this image: {reason[:200]}")
        return path


class BPG(External):
    """Bellard's BPG (HEVC intra): 4:4:4 YCbCr, 8 bits, slowest setting but one (its default)."""

    codec = "bpg"
    largest = 51
    ladder = (47, 44, 41, 38, 35, 32, 29, 26, 23, 20, 17)
    encoders, decoders = ("bpgenc",), ("bpgdec",)

    def encode(self, image: UInt8[np.ndarray, "h w 3"], folder: Path) -> bytes:
        Image.fromarray(image).save(folder / "in.png")
        options = ["-q", f"{self.quality:g}", "-f", "444", "-b", "8", "-o", "out.bpg", "in.png"]
        return self.run(self.encoder, *options, folder=folder, out="out.bpg").read_bytes()

    def decode(self, data: bytes, folder: Path) -> UInt8[np.ndarray, "h w 3"]:
        (folder / "in.bpg").write_bytes(data)
        out = self.run(self.decoder, "-o", "out.png", "in.bpg", folder=folder, out="out.png")
        return np.asarray(Image.open(out).convert("RGB"))


class VTM(External):
    """VTM, intra: 4:4:4 YCbCr (BT.709, full range) in 10 bits. ``config``: its encoder_intra_vtm.cfg; None: the path
    in the environment variable `VTM_CONFIG`. A file is the stream after `SIZE`."""

    codec = "vtm"
    largest = 63
    ladder = (47, 42, 37, 34, 31, 28, 25, 22, 19)
    encoders, decoders = ("EncoderApp", "EncoderAppStatic"), ("DecoderApp", "DecoderAppStatic")

    def __init__(self, *, quality: float | None, limit: float = LIMIT, config: str | Path | None = None) -> None:
        super().__init__(quality=quality, limit=limit)
        path = config or os.environ.get(VTM_CONFIG)
        if not path or not Path(path).is_file():
            raise NotInstalled(f"vtm needs its encoder_intra_vtm.cfg: set {VTM_CONFIG} to the path of this file")
        self.config = Path(path).resolve()

    def encode(self, image: UInt8[np.ndarray, "h w 3"], folder: Path) -> bytes:
        height, width = image.shape[:2]
        if max(height, width) >= 2**16:
            raise UserError(f"vtm cannot code an image of {width} x {height} pixels: its sides are below 65536")
        (folder / "in.yuv").write_bytes(to_yuv10(image).tobytes())
        options = [
            "-c", str(self.config), "-i", "in.yuv", "-b", "out.vvc", "-o", os.devnull, "-q", f"{self.quality:g}",
            "-wdt", str(width), "-hgt", str(height), "-fr", "1", "-f", "1", "--InputChromaFormat=444",
            "--InputBitDepth=10", "--ConformanceWindowMode=1",
        ]  # fmt: skip
        stream = self.run(self.encoder, *options, folder=folder, out="out.vvc").read_bytes()
        return SIZE.pack(height, width) + stream

    def decode(self, data: bytes, folder: Path) -> UInt8[np.ndarray, "h w 3"]:
        if len(data) <= SIZE.size:
            raise UserError("These bytes are no vtm image, or damaged.")
        height, width = SIZE.unpack_from(data)
        (folder / "in.vvc").write_bytes(data[SIZE.size :])
        out = self.run(self.decoder, "-b", "in.vvc", "-o", "out.yuv", "-d", "10", folder=folder, out="out.yuv")
        planes = np.fromfile(out, "<u2")
        if planes.size != 3 * height * width:
            raise UserError("These bytes are no vtm image of the size that they state.")
        return from_yuv10(planes.reshape(3, height, width))


# BT.709, full range: Y, Cb - 1/2, Cr - 1/2
_RGB_TO_YUV = np.array([[0.2126, 0.7152, 0.0722], [-0.1146, -0.3854, 0.5], [0.5, -0.4542, -0.0458]])


def to_yuv10(image: UInt8[np.ndarray, "h w 3"]) -> np.ndarray:
    """(h, w, 3) 8-bit RGB -> (3, h, w) 10-bit YCbCr, uint16 little-endian."""
    planes = np.moveaxis(image / 255 @ _RGB_TO_YUV.T, -1, 0) + np.array([0, 0.5, 0.5])[:, None, None]
    return (planes * 1023).round().clip(0, 1023).astype("<u2")


def from_yuv10(planes: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """Inverse of `to_yuv10` up to rounding, which changes no 8-bit level."""
    centred = planes / 1023 - np.array([0, 0.5, 0.5])[:, None, None]
    rgb = np.moveaxis(centred, 0, -1) @ np.linalg.inv(_RGB_TO_YUV).T
    return (rgb * 255).round().clip(0, 255).astype(np.uint8)


@cache
def _version(program: str) -> str:
    """What a program without arguments prints as its version, or ""."""
    try:
        done = subprocess.run([program], stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    match = re.search(rb"[Vv]ersion\s*\[?\s*([\w.]+)", done.stdout + done.stderr)
    return match[1].decode() if match else ""


EXTERNAL = {codec.codec: codec for codec in (BPG, VTM)}
