"""Codecs -> wall times of compressing and decompressing a photograph, ours and CompressAI's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from compressai import ans
from compressai.models import MeanScaleHyperprior
from torch import Tensor, nn

from jdcsuite.bench.common import configuration
from jdcsuite.coding.codec import Codec
from jdcsuite.data.draw import Draw
from jdcsuite.data.noise import GaussianNoise
from jdcsuite.entropy.coder import Decoder, Encoder, Tables
from jdcsuite.imaging.pixels import to_tensor
from jdcsuite.imaging.read import embedded
from jdcsuite.judging.metrics import timed
from jdcsuite.reports.complexity import kmac
from jdcsuite.training import job as training

SIZE = (512, 512)
Speed = dict[str, list[tuple[float, float]]]


def codec_speed(codec: Codec, *, size: tuple[int, int] = SIZE, repeats: int = 5, device: str = "cpu") -> Speed:
    """``compress`` and ``decompress``: wall time in ms of each repeat, and the fraction of it outside the networks.

    Codes a photograph of ``size`` (height, width) in memory. ``codec``: ready to code. The networks are the submodules
    that are called; entropy coding, container and checksums are outside them."""
    x = photograph(size).to(device)
    data = codec.to(device).compress(x, sigma=10.0)
    codec.decompress(data)
    work = {"compress": lambda: codec.compress(x, sigma=10.0), "decompress": lambda: codec.decompress(data)}
    return {verb: [_split(codec, do, like=x) for _ in range(repeats)] for verb, do in work.items()}


def rivals(*, width: float, size: tuple[int, int], repeats: int, device: str) -> dict[str, dict[str, list[float]]]:
    """Wall times in ms of a FLLIC of this ``width`` and of CompressAI's mbt2018-mean, alternating on one image."""
    ours = training.build(configuration(f"width={width}"), {})[1].model.eval().to(device)
    ours.update()
    theirs = MeanScaleHyperprior(192, 320).eval().to(device)
    theirs.update(force=True, update_quantiles=True)
    x = photograph(size).to(device)
    names = {f"FLLIC, {kmac(ours):.0f} kMAC/px": ours, f"CompressAI mbt2018-mean, {kmac(theirs):.0f} kMAC/px": theirs}
    times: dict[str, dict[str, list[float]]] = {name: {"compress": [], "decompress": []} for name in names}
    with torch.no_grad():
        for turn in range(repeats + 1):
            for name, model in names.items():
                coded, enc_ms = timed(lambda model=model: model.compress(x), x)
                given = (coded["strings"], coded["shape"]) if isinstance(coded, dict) else (coded,)
                _, dec_ms = timed(lambda model=model, given=given: model.decompress(*given), x)
                if turn:  # the first is the warm-up
                    times[name]["compress"].append(enc_ms)
                    times[name]["decompress"].append(dec_ms)
    return times


def coders(codec: Codec, *, size: tuple[int, int], repeats: int) -> tuple[int, dict[str, dict[str, list[float]]]]:
    """Number of symbols in the latents of a photograph, and the wall times in ms in which our entropy coder and
    CompressAI's code them. RuntimeError: a coder does not decode what it encoded."""
    put: list[tuple[Tensor, Tensor, Tables]] = []

    def spy(self: Encoder, symbols: Tensor, indexes: Tensor, tables: Tables, *, shifts: Tensor | None = None) -> None:
        put.append((symbols, indexes, tables))
        plain(self, symbols, indexes, tables, shifts=shifts)

    plain = Encoder.put
    Encoder.put = spy
    try:
        codec.compress(photograph(size).to(next(codec.parameters()).device), sigma=10.0)
    finally:
        Encoder.put = plain
    tables = max(put, key=lambda call: len(call[0]))[2]
    symbols, indexes = (torch.cat([call[i] for call in put if call[2] is tables]) for i in (0, 1))
    lists = ([r[:n].tolist() for r, n in zip(tables.cdf, tables.length.tolist(), strict=True)],
             tables.length.tolist(), tables.offset.tolist())  # fmt: skip

    def ours() -> bytes:
        encoder = Encoder()
        encoder.put(symbols, indexes, tables)
        return encoder.segment()

    def theirs() -> bytes:
        return ans.RansEncoder().encode_with_indexes(symbols.tolist(), indexes.tolist(), *lists)

    def their_decoder(data: bytes) -> Tensor:
        return torch.tensor(ans.RansDecoder().decode_with_indexes(data, indexes.tolist(), *lists))

    kinds = {
        "our rANS": (ours, lambda data: Decoder(data).get(indexes, tables)),
        "CompressAI's rANS": (theirs, their_decoder),
    }
    times: dict[str, dict[str, list[float]]] = {name: {"compress": [], "decompress": []} for name in kinds}
    for turn in range(repeats + 1):
        for name, (encode, decode) in kinds.items():
            data, enc_ms = timed(encode, symbols)
            decoded, dec_ms = timed(lambda decode=decode, data=data: decode(data), symbols)
            if not torch.equal(decoded.long(), symbols.long()):
                raise RuntimeError(f"{name} does not decode what it encoded")
            if turn:
                times[name]["compress"].append(enc_ms)
                times[name]["decompress"].append(dec_ms)
    return len(symbols), times


def photograph(size: tuple[int, int]) -> Tensor:
    """A photograph with noise of 10 grey levels, extended to ``size`` by reflection: (1, 3, h, w)."""
    padded = np.pad(embedded("test")[0][1], [(0, max(size)), (0, max(size)), (0, 0)], mode="symmetric")
    return GaussianNoise(sigma=10.0)(to_tensor(padded[: size[0], : size[1]])[None], Draw.whole(1, seed=0))


def _split(model: nn.Module, work: Callable[[], object], *, like: Tensor) -> tuple[float, float]:
    """Wall time of ``work`` in ms, and the fraction of it outside calls of the model's direct submodules."""
    inside: list[float] = []

    def clocked(forward: Callable) -> Callable:
        def call(*args: object) -> object:
            result, ms = timed(lambda: forward(*args), like)
            inside.append(ms)
            return result

        return call

    children = list(model.children())
    for child in children:
        child.forward = clocked(child.forward)
    try:
        _, total = timed(work, like)
    finally:
        for child in children:
            del child.forward
    return total, 1 - sum(inside) / total
