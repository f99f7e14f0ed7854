"""Image -> lossless code: LC-FDNet, which predicts the image quarter by quarter, smooth parts first.

Rhee et al., "LC-FDNet: learned lossless image compression with frequency decomposition network" (CVPR 2022).
The pixels of a reversible YUV image are split into four subsampled images a, b, c, d (even and odd rows and columns). A
conventional coder stores a. Then d, b and c follow, in each of them Y, U and V: nine networks, each of which sees all
that is decoded already (`models.frequency_net`).

The networks lie between bits and symbols, so coding computes them exactly (`entropy.exact`) and turns their outputs
into probabilities with integers only: a file decodes to the same image on every machine.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from jdcsuite.coding.codec import Codec, coding_mode, tile_checksum
from jdcsuite.coding.container import Contents, Tile
from jdcsuite.coding.tiling import Array, Box
from jdcsuite.entropy.coder import UNITS, Decoder, Encoder
from jdcsuite.entropy.logits import RowPerSymbol
from jdcsuite.imaging.lossless import Lossless
from jdcsuite.imaging.pixels import quantized
from jdcsuite.models.frequency_net import (
    HEAD_WINDOW,
    REACH,
    SCALE,
    WINDOW,
    Exchange,
    FrequencyNet,
)
from jdcsuite.types import CorruptFile, Output, Side, UserError

PLACES = {"d": (1, 1), "b": (0, 1), "c": (1, 0)}  # subsampled image -> its first row and column, in coding order
RANGES = ((0, 255), (-255, 255), (-255, 255))  # smallest and largest Y, U and V
# bits of the Y, U and V of a pixel at least: all other outcomes have one unit of probability each
LEAST_BITS = -sum(math.log2(1 - (high - low) / UNITS) for low, high in RANGES)
KEPT = 1 << 29  # bytes of freed memory that glibc keeps: 156 and 423 MiB in two equal runs, so no tight bound exists


def to_yuv(rgb: Int64[Tensor, "*b 3 h w"]) -> Int64[Tensor, "*b 3 h w"]:
    """The reversible transform of the paper, after Pei and Ding; Y in 0..255, U and V in -255..255."""
    r, g, b = rgb.unbind(-3)
    u, v = b - ((87 * r + 169 * g + 128) >> 8), r - g
    return torch.stack([g + ((86 * v + 29 * u + 128) >> 8), u, v], -3)


def to_rgb(yuv: Int64[Tensor, "*b 3 h w"]) -> Int64[Tensor, "*b 3 h w"]:
    """Inverse of `to_yuv`."""
    y, u, v = yuv.unbind(-3)
    g = y - ((86 * v + 29 * u + 128) >> 8)
    r = v + g
    return torch.stack([r, g, u + ((87 * r + 169 * g + 128) >> 8)], -3)


class LCFDNet(Codec):
    """``hidden``: features of each network; 64 as published, 23.8 M parameters.

    Codes 8-bit images exactly, each tile on its own, so it has no rate to choose and no lmbda.

    differs from the paper: image a is coded by lossless WebP instead of JPEG XL, because a forged JPEG XL stream could
    claim any amount of memory (.06 bpp more on four images of Kodak; JPEG-LS takes seconds for some damaged streams).
    Residuals that no sample can have get no probability. The threshold learns from the difference in bits between the
    branches (straight-through), where the published code gives it no gradient. One optimiser trains all nine networks
    together; their losses do not depend on each other.
    """

    segment_names = ("a", "dbc")
    prior_networks = ("nets",)

    def __init__(self, *, hidden: int = 64) -> None:
        super().__init__()
        self.nets = nn.ModuleDict()
        for place in PLACES:
            for name, (low, high) in zip("yuv", RANGES, strict=True):
                inputs = 3 + len(self.nets)
                self.nets[f"{name}_{place}"] = FrequencyNet(inputs=inputs, hidden=hidden, low=low, high=high)
        self._seed = Lossless(coder="webp")

    # -- training ----------------------------------------------------------------------------------------------

    def forward(
        self,
        x: Float[Tensor, "b 3 h w"],
        *,
        sigma: Float[Tensor, "b"] | None = None,
        bpp_noisy: Float[Tensor, "b"] | None = None,
    ) -> Output:
        """``x_hat`` is the input in 8 bits. ``likelihoods``: of images d, b and c, and in evaluation mode of a, whose
        rate no weight changes. The auxiliary loss is the paper's, in the units of its rate."""
        planes = _subsampled(to_yuv((quantized(x) * 255).round().long()))
        known, reference = planes["a"].float(), planes["a"].float()
        likelihoods, auxiliary = {}, x.new_zeros(len(x))
        for place in PLACES:
            target, bits = planes[place].float(), []
            for i, name in enumerate("yuv"):
                net = self.nets[f"{name}_{place}"]
                bit, loss = net(known, reference[:, i : i + 1], target[:, i : i + 1])
                bits.append(bit)
                auxiliary = auxiliary + loss / (4 * math.log(2))  # nats of a quarter of the pixels -> bits per pixel
                known = torch.cat([known, target[:, i : i + 1]], 1)
            likelihoods[place] = torch.exp2(torch.cat(bits, 1)).clamp(1e-30, 1)
        if not self.training:
            a = to_rgb(planes["a"])
            bits = [8 * len(self._encode_seed(image)) / image[0].numel() for image in a]
            likelihoods = {"a": torch.exp2(-x.new_tensor(bits))[:, None, None].expand(-1, *a.shape[-2:])} | likelihoods
        return Output(x_hat=quantized(x), likelihoods=likelihoods, auxiliary=auxiliary)

    # -- coding ------------------------------------------------------------------------------------------------

    def header(self, x: Float[Tensor, "1 3 h w"] | Array, **options: object) -> Contents:
        if isinstance(x, np.ndarray) and x.dtype != np.uint8:
            raise UserError(f"LC-FDNet codes 8 bits a sample, this image has 16: {ADVICE}")
        return super().header(x, **options)

    def decoding_memory(self, contents: Contents) -> int:
        """The image, the rounded weights, the planes of a tile and the features of two branches, the convolution of a
        window as a product of matrices, and a head window's patches, logits and tables."""
        net, box = self.nets["v_c"], contents.boxes[0]
        hidden, height, width = net.error.in_channels, (box.height + 1) // 2, (box.width + 1) // 2
        window, head = (min(height, side) * min(width, side) for side in (WINDOW + 2 * REACH, HEAD_WINDOW))
        floats = sum(parameter.numel() for parameter in self.nets.parameters())
        floats += height * width * (2 * hidden + 64) + window * 15 * hidden
        floats += head * (2 * 9 * 2 * hidden + 2 * net.low.logits.out_channels)
        return super().decoding_memory(contents) + 10 * floats + KEPT  # 8 bytes and a quarter for the allocator

    def encode_tiles(self, x: Float[Tensor, "1 3 h w"] | Array, contents: Contents) -> Iterator[Tile]:
        return (self._encode_box(x, box, side=contents.side) for box in contents.boxes)

    def decode_tiles(self, contents: Contents) -> Iterator[tuple[Box, Float[Tensor, "1 3 _ _"]]]:
        if contents.bit_depth != 8:
            raise CorruptFile(f"a bit depth of {contents.bit_depth}, where this codec writes 8")
        return (
            (box, self._decode_box(tile, box, side=contents.side))
            for box, tile in zip(contents.boxes, contents.tiles, strict=True)
        )

    @coding_mode
    def _encode_box(self, x: Float[Tensor, "1 3 h w"] | Array, box: Box, *, side: Side) -> Tile:
        rgb = (self.crop(x, box) * 255).round().long()
        planes, coder = _subsampled(to_yuv(rgb)), Encoder()

        def write(place: str, i: int) -> Exchange:
            def put(coding: RowPerSymbol, rows: Tensor, columns: Tensor) -> Tensor:
                samples = planes[place][0, i, rows, columns]
                intervals = coding.intervals((RANGES[i][1] - samples).cpu())
                coder.put(torch.zeros(len(rows), dtype=torch.int32), torch.arange(len(rows)), intervals)
                return samples

            return put

        self._code(planes["a"], write)
        segments = [self._encode_seed(to_rgb(planes["a"])[0]), coder.segment()]
        return Tile(checksum=tile_checksum(rgb.flatten(), box=box, side=side), segments=segments)

    @coding_mode
    def _decode_box(self, tile: Tile, box: Box, *, side: Side) -> Float[Tensor, "1 3 _ _"]:
        size = ((box.height + 1) // 2, (box.width + 1) // 2)
        coder = Decoder(tile.segments[1])
        coder.require(len(PLACES) * math.prod(size) * LEAST_BITS)  # before the networks see a tile that was not written
        a = to_yuv(self._decode_seed(tile.segments[0], size).to(self.device))

        def read(place: str, i: int) -> Exchange:
            def get(coding: RowPerSymbol, rows: Tensor, columns: Tensor) -> Tensor:
                return RANGES[i][1] - coder.get(torch.arange(len(rows)), coding).to(rows)

            return get

        planes = self._code(a[None], read) | {"a": a[None]}
        coder.finish()
        rgb = to_rgb(_interleaved(planes))[..., : box.height, : box.width]
        checksum = tile_checksum(rgb.flatten(), box=box, side=side)
        if checksum != tile.checksum or rgb.min() < 0 or rgb.max() > 255:
            raise CorruptFile("the decoded samples are not those that were written")
        return rgb.float() / 255

    def _code(
        self, a: Int64[Tensor, "1 3 h w"], exchange: Callable[[str, int], Exchange]
    ) -> dict[str, Int64[Tensor, "1 3 h w"]]:
        """Images d, b and c, of which ``exchange`` writes or reads each plane."""
        known, planes = a, {}
        for place in PLACES:
            for i, name in enumerate("yuv"):
                plane = self.nets[f"{name}_{place}"].code(known, a[:, i : i + 1], exchange(place, i))
                known = torch.cat([known, plane], 1)
            planes[place] = known[:, -3:]
        return planes

    def _encode_seed(self, rgb: Int64[Tensor, "3 h w"]) -> bytes:
        """The lossless WebP stream of an image, without its header, so that no file can claim another size."""
        data = self._seed.encode(rgb.byte().permute(1, 2, 0).contiguous().cpu().numpy())
        end = 20 + int.from_bytes(data[16:20], "little")
        if data[:25] != _webp_header(rgb.shape[1:], end - 25):
            raise RuntimeError("this build of libwebp writes another header than the simple lossless format")
        return data[25:end]

    def _decode_seed(self, data: bytes, size: tuple[int, int]) -> Int64[Tensor, "3 h w"]:
        try:
            image = self._seed.decode(_webp_header(size, len(data)) + data + bytes((len(data) + 5) % 2))
        except UserError as error:
            raise CorruptFile(f"the first segment of a tile is damaged ({error})") from None
        return torch.from_numpy(image.copy()).permute(2, 0, 1).long()

    # -- published weights ---------------------------------------------------------------------------------------

    @staticmethod
    def from_published(published: dict[str, Tensor]) -> dict[str, Tensor]:
        """The nine published state_dicts, each under its name (as "network_Y_d."), with this module's names."""
        own = {}
        for name, tensor in published.items():
            net, _, rest = name.partition(".")
            layer, _, part = rest.rpartition(".")
            _, plane, place = net.split("_")
            if part != "num_batches_tracked":
                own_layer, normalises = _published_layers()[layer]
                part = NORMALISATION[part] if normalises else part
                scale = SCALE if part == "weight" and own_layer.endswith(".first") else 1  # they see grey levels
                own[f"nets.{plane.lower()}_{place}.{own_layer}.{part}"] = tensor * scale
        return own


ADVICE = "give an 8-bit image, or weights of another codec"

NORMALISATION = {"weight": "gamma", "bias": "beta", "running_mean": "mean", "running_var": "var"}


def _published_layers() -> dict[str, tuple[str, bool]]:
    """Layer of a published network -> ours, and whether it is the batch normalisation of that layer."""
    layers = {"error_var_enc.0": ("error", False)}
    normalised = {f"var_th_enc.{4 * i}": f"threshold.{i}" for i in range(3)}
    for letter, branch in {"L": "low", "H": "high"}.items():
        layers |= {
            f"res_enc_{letter}": (f"{branch}.residual", False),
            f"pmf_enc_{letter}.3": (f"{branch}.logits", False),
        }
        normalised |= {f"enc_{letter}.0": f"{branch}.first", f"pmf_enc_{letter}.0": f"{branch}.widen"}
        for block in range(3):
            for i in range(2):
                name, own = f"enc_{letter}.{3 + block}", f"{branch}.blocks.{block}.{i}"
                layers |= {f"{name}.conv{i + 1}": (own, False), f"{name}.bn{i + 1}": (own, True)}
    for name, own in normalised.items():
        before, _, place = name.rpartition(".")
        layers |= {name: (own, False), f"{before}.{int(place) + 1}": (own, True)}
    return layers


def _webp_header(size: tuple[int, int], length: int) -> bytes:
    """The first 25 bytes of a lossless WebP file of an opaque image of ``size`` (height, width), before ``length``
    bytes of its stream (RFC 9649)."""
    chunk = length + 5
    sides = (size[1] - 1) | (size[0] - 1) << 14
    return struct.pack("<4sI8sIBI", b"RIFF", 12 + chunk + chunk % 2, b"WEBPVP8L", chunk, 0x2F, sides)


def _subsampled(planes: Int64[Tensor, "b 3 h w"]) -> dict[str, Int64[Tensor, "b 3 _ _"]]:
    """Images a, b, c and d; odd sides are extended by their last row or column."""
    height, width = planes.shape[-2:]
    padded = F.pad(planes.double(), (0, width % 2, 0, height % 2), mode="replicate").long()
    return {place: padded[..., row::2, column::2] for place, (row, column) in {"a": (0, 0), **PLACES}.items()}


def _interleaved(images: dict[str, Int64[Tensor, "b 3 h w"]]) -> Int64[Tensor, "b 3 _ _"]:
    """Inverse of `_subsampled`, but for the extension."""
    whole = images["a"].repeat_interleave(2, 2).repeat_interleave(2, 3)
    for place, (row, column) in PLACES.items():
        whole[..., row::2, column::2] = images[place]
    return whole
