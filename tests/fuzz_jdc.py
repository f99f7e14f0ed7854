"""Damaged and forged `.jdc` files -> each is refused as CorruptFile or decoded exactly, fast and in little memory.

    python tests/fuzz_jdc.py [CASES] [--seed S] [--only CASE] [--codec NAME]

CASES: per codec; 20,000 in `make fuzz`, 200 in the tests.

Kinds of cases: changed bytes, truncated files, added bytes, random bytes, and *forged* files whose CRC is recomputed,
so that they pass the container and reach the coder, the networks and the checksums of the symbols. *Forged latents*
have valid segments and checksums of latents up to 1e9; *forged sizes*, a large tile whose first segment is valid. A
case is a function of (seed, number), and `--only` repeats one. Memory is the peak of the process beyond that after
every valid file has been decoded once.
"""

from __future__ import annotations

import faulthandler
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import fuzzing
import numpy as np
import torch

from jdcsuite.coding.codec import Codec, coding_mode, tile_checksum
from jdcsuite.coding.container import Contents, Tile, pack, unpack
from jdcsuite.entropy.coder import Encoder
from jdcsuite.files import compression
from jdcsuite.imaging.depth import BITS, Depth
from jdcsuite.imaging.lossless import Lossless
from jdcsuite.models.clean_entropy import CleanEntropy
from jdcsuite.models.flagship import Flagship
from jdcsuite.models.fllic import FLLIC
from jdcsuite.models.frequency_net import Exchange
from jdcsuite.models.lcfdnet import RANGES, LCFDNet, _interleaved, to_rgb, to_yuv
from jdcsuite.models.manypriors import ManyPriors
from jdcsuite.models.testolina import Testolina
from jdcsuite.types import CorruptFile, Side

MEBIBYTES = 512
KINDS = ("changed", "cut", "extended", "random")
KINDS += tuple(f"forged {what}" for what in ("bytes", "fields", "segments", "latents", "size"))
# most cases are forged, because all others fail at the first CRC
WEIGHTS = (0.1, 0.05, 0.05, 0.1, 0.15, 0.15, 0.2, 0.15, 0.05)


@dataclass(frozen=True)
class Original:
    data: bytes
    contents: Contents
    pixels: np.ndarray


def fllic() -> Codec:
    return FLLIC(widths=[8, 8, 16], num_latents=32, prior_width=8, latent_gain=64.0)


def many_priors() -> Codec:
    """With priors and index costs that differ."""
    codec = ManyPriors(num_channels=8, num_latents=12, num_priors=6, index_cost="adaptive", latent_gain=64.0)
    with torch.no_grad():
        codec.prior_y.b += torch.randn_like(codec.prior_y.b)
        codec.prior_y.seen.uniform_(0, 100)
    return codec


def testolina() -> Codec:
    return Testolina(num_channels=8, num_latents=12)


def flagship() -> Codec:
    return Flagship(widths=[8, 8], blocks=[1, 1], num_latents=24, prior_width=8, embedding=8, latent_gain=64.0)


def guided() -> Codec:
    """FLLIC with the network that estimates the entropy of the clean image."""
    guide = CleanEntropy(widths=[4, 4], hidden=4, lossless=Lossless(coder="png", effort=1))
    return FLLIC(widths=[8, 8, 16], num_latents=32, prior_width=8, latent_gain=64.0, guide=guide).eval()


def lcfdnet() -> Codec:
    return LCFDNet(hidden=2)


CODECS = {"FLLIC": fllic, "ManyPriors": many_priors, "Testolina": testolina, "Flagship": flagship}
FUZZED = {**CODECS, "LCFDNet": lcfdnet}  # the last has no latents


def narrow(name: str = "FLLIC", *, seed: int = 0) -> Codec:
    """A narrow codec with random weights and latents large enough to leave the tables."""
    torch.manual_seed(seed)
    codec = FUZZED[name]().eval()
    codec.update()
    return codec


def images(*, tile: int) -> list[tuple[np.ndarray, dict[str, object]]]:
    """One of each kind of file: smallest, tiled, 16 bits, 12 of 16 bits, grey with metadata, flat."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[: 2 * tile + 22, : 2 * tile + 2]
    waves = 0.5 + 0.4 * np.sin(y[..., None] / 9 + x[..., None] / 13 + np.arange(3))
    noisy = np.clip(waves + random.normal(0, 0.05, waves.shape), 0, 1)
    eight = np.rint(noisy * 255).astype(np.uint8)
    deep = np.rint(noisy * 65535).astype(np.uint16)
    return [
        (eight[:1, :1], {}),
        (eight, {"tile": tile}),
        (eight[:70, :50], {"tile": 0}),
        (deep[:66, :40], {}),
        (deep[:50, :60] >> 4, {}),
        (eight[:30, :80], {"grey": True, "metadata": {"icc": b"profile" * 9, "exif": b"MM\0*"}}),
        (np.full((128, 128, 3), 77, np.uint8), {}),
    ]


def originals(codec: Codec) -> list[Original]:
    files = []
    for pixels, options in images(tile=max(64, codec.margin)):
        if isinstance(codec, LCFDNet) and pixels.dtype != np.uint8:
            continue
        data = compression.compress(pixels, codec, **options)
        files.append(Original(data, unpack(data), compression.decompress(data, codec)))
    return files


# -- the cases --------------------------------------------------------------------------------------------------


def case(kind: str, original: Original, codec: Codec, random: np.random.Generator) -> bytes:
    data = original.data
    if kind == "forged latents":
        return pack(_latents(original.contents, codec, random))
    if kind == "forged size":
        return pack(_size(original.contents, codec, random))
    if kind == "changed":
        return _changed(data, random)
    if kind == "cut":
        return data[: random.integers(len(data))]
    if kind == "extended":
        return data + (data if random.random() < 0.2 else random.bytes(random.integers(1, 100)))
    if kind == "random":
        noise = random.bytes(random.integers(200))
        return [noise, data[:4] + noise, data[:31] + noise, _sealed(data[:31] + noise)][random.integers(4)]
    if kind == "forged bytes":
        body = _changed(data[:-4], random)
        cut = random.integers(len(body)) if random.random() < 0.2 else len(body)
        return _sealed(body[:cut])
    contents = original.contents
    for _ in range(random.integers(1, 4)):
        contents = (_field if kind == "forged fields" else _segment)(contents, random)
    try:
        return pack(contents)
    except (ValueError, struct.error):  # outside the format, so `pack` refuses it
        return _sealed(_changed(data[:-4], random))


def _changed(data: bytes, random: np.random.Generator) -> bytes:
    """Flips bits, sets bytes, removes or repeats blocks; half of the time near the start, where the fields are."""
    out = bytearray(data)
    for _ in range(random.integers(1, 6)):
        reach = min(len(out), 64) if random.random() < 0.5 else len(out)
        place, size = int(random.integers(reach)), int(random.integers(1, 20))
        match random.integers(5):
            case 0:
                out[place] ^= 1 << int(random.integers(8))
            case 1:
                out[place] = int(random.choice([0, 1, 127, 128, 255, random.integers(256)]))
            case 2:
                del out[place : place + size]
            case 3:
                out[place:place] = out[place : place + size]
            case _:
                out[place : place + 4] = struct.pack(
                    "<I", int(random.choice([0, 1, 64, 4096, 2**20, 2**31, 2**32 - 1]))
                )
        if not out:
            return b"\0"
    return bytes(out)


def _field(it: Contents, random: np.random.Generator) -> Contents:
    """Changes size, tile, depth, side information and the like; repeats or drops tiles so that their number fits."""

    def side(now: int) -> int:
        return int(random.choice([1, now - 1, now + 1, 64, 65, 2 * now, 640, 4096, random.integers(1, 2000)]))

    match random.integers(8):
        case 0:
            it = replace(it, height=max(1, side(it.height)))
        case 1:
            it = replace(it, width=max(1, side(it.width)))
        case 2:
            it = replace(it, tile=int(random.choice([0, 64, 128, 1024, 4096])))
        case 3:
            it = replace(it, bit_depth=24 - it.bit_depth, colour=1 - it.colour)
        case 4:
            it = replace(it, side=_side(it.side, random))
        case 5:
            it = replace(it, same_machine=not it.same_machine, metadata={})
        case 6:
            bits = int(random.choice(BITS))
            it = replace(it, depth=Depth(bits=bits, shift=int(random.integers(bits - 7))))
        case _:
            it = replace(it, height=it.width, width=it.height)
    count = len(it.boxes) if it.height * it.width < 10**7 else 1
    return replace(it, tiles=[it.tiles[i % len(it.tiles)] for i in range(count)])


def _side(side: Side, random: np.random.Generator) -> Side:
    """Changes the guide, or the request of an any-rate codec: other values, values outside the format, or none."""
    if side.request is None or random.random() < 0.3:
        return replace(side, h=int(random.integers(2**16)))
    if random.random() < 0.2:
        return replace(side, request=None)
    name, most = [("quality", 1000), ("noise", 2**16 - 1), ("strength", 100)][random.integers(3)]
    return replace(side, request=replace(side.request, **{name: int(random.choice([0, most, random.integers(2**16)]))}))


def _segment(it: Contents, random: np.random.Generator) -> Contents:
    """Empties, cuts, extends, changes or replaces a segment of a tile, or exchanges two segments or two tiles."""
    tiles = list(it.tiles)
    n = int(random.integers(len(tiles)))
    segments = list(tiles[n].segments)
    i, j = (int(random.integers(len(segments))) for _ in range(2))
    match random.integers(9):
        case 0:
            segments[i] = b""
        case 1:
            segments[i] = segments[i][: random.integers(len(segments[i]) + 1)]
        case 2:
            segments[i] += random.bytes(random.integers(1, 9))
        case 3 | 4:
            segments[i] = _changed(segments[i] or b"\0", random)
        case 5:
            segments[i] = random.bytes(random.integers(1, 400))
        case 6:
            segments[i], segments[j] = segments[j], segments[i]
        case 7:
            segments = segments[:-1] if len(segments) > 1 and random.random() < 0.5 else [*segments, b"x"]
            return replace(it, tiles=[replace(t, segments=(t.segments * 2)[: len(segments)]) for t in tiles])
        case _:
            m = int(random.integers(len(tiles)))
            tiles[n], tiles[m] = tiles[m], tiles[n]
            return replace(it, tiles=tiles)
    tiles[n] = replace(tiles[n], segments=segments)
    return replace(it, tiles=tiles)


@torch.no_grad()
def _latents(it: Contents, codec: Codec, random: np.random.Generator) -> Contents:
    """Random latents of any magnitude as an encoder writes them, with right checksums; of LC-FDNet, random samples."""
    if isinstance(codec, LCFDNet):
        return _samples(it, codec, random)
    valid = _valid(_side(it.side, random), it.side)
    it = replace(it, side=valid, tile=0, height=int(random.integers(1, 131)), width=70)
    (box,) = it.boxes
    height, width = codec._tiling.padded(box.height, box.width)
    y = random.normal(size=(1, codec.num_latents, height // 16, width // 16)) * 10 ** random.uniform(-1, 9)
    segments, symbols = codec.encode_tile(torch.from_numpy(y).float(), side=it.side)
    return replace(it, tiles=[Tile(checksum=tile_checksum(symbols, box=box, side=it.side), segments=segments)])


def _samples(it: Contents, codec: LCFDNet, random: np.random.Generator) -> Contents:
    """Samples as an encoder writes them, most of them of no RGB image unless they are near those of image a."""
    it = replace(it, tile=0, height=int(random.integers(1, 50)), width=30)
    (box,) = it.boxes
    size, spread = ((box.height + 1) // 2, 15), 10 ** random.uniform(-1, 3)
    grey = int(random.integers(256))
    rgb = torch.from_numpy(np.clip(random.normal(grey, spread, (3, *size)), 0, 255).astype(np.int64))
    a, encoder = to_yuv(rgb)[None], Encoder()

    def write(place: str, i: int) -> Exchange:
        def put(coding, rows, columns):
            noise = torch.from_numpy(random.normal(0, spread, len(rows)).astype(np.int64))
            samples = (a[0, i, rows, columns] + noise).clamp(*RANGES[i])
            every = torch.arange(len(rows))
            encoder.put(torch.zeros(len(rows), dtype=torch.int32), every, coding.intervals(RANGES[i][1] - samples))
            return samples

        return put

    planes = coding_mode(LCFDNet._code)(codec, a, write)
    whole = to_rgb(_interleaved(planes | {"a": a}))[..., : box.height, : box.width]
    tile = Tile(
        checksum=tile_checksum(whole.flatten(), box=box, side=it.side),
        segments=[codec._encode_seed(rgb), encoder.segment()],
    )
    return replace(it, tiles=[tile])


def _size(it: Contents, codec: Codec, random: np.random.Generator) -> Contents:
    """A large tile of latents 0, of which the last segment is replaced."""
    side = int(random.choice([1024, 2048, 4096]))
    # LC-FDNet takes about 10 us for each sample that is there, however few bytes it has
    words = int(random.choice([1, 10, 1000, 2000 if isinstance(codec, LCFDNet) else 100_000]))
    last = random.bytes(7) + b"\1" + random.bytes(4 * words)
    tiles = [Tile(checksum=int(random.integers(2**32)), segments=[_constant(codec, side), last])]
    return replace(it, height=side, width=side, tile=0, tiles=tiles)


def _constant(codec: Codec, side: int) -> bytes:
    """The first segment of a tile, all symbols or samples of which are 0."""
    if isinstance(codec, LCFDNet):
        return codec._encode_seed(torch.zeros(3, side // 2, side // 2, dtype=torch.int64))
    encoder, name = Encoder(), codec.segment_names[0]
    tables, count = codec.tables[name], (side // codec.stride) ** 2
    if name == "index":  # coded given the index above
        rows = torch.zeros(count, dtype=torch.int32)
        rows[: side // codec.stride] = len(tables.length) - 1
    else:
        rows = torch.arange(len(tables.length), dtype=torch.int32).repeat_interleave(count)
    encoder.put(torch.zeros_like(rows), rows, tables)
    return encoder.segment()


def _valid(side: Side, instead: Side) -> Side:
    """``side``, or ``instead`` where a request is missing or outside the format."""
    request = side.request
    if request is None or instead.request is None:
        return instead if request != instead.request else side
    return side if request.quality <= 1000 and request.strength <= 100 else instead


def _sealed(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


# -- the verdict ------------------------------------------------------------------------------------------------


def outcome(data: bytes, original: Original, codec: Codec) -> str:
    """ "refused", or "decoded" if the image is the one in the file. AssertionError: a wrong image."""
    try:
        pixels = compression.decompress(data, codec)
    except CorruptFile as error:
        assert str(error) and "\n" not in str(error), "a refusal is one sentence"
        return "refused"
    contents = unpack(data)
    assert pixels.shape == (contents.height, contents.width, 3), "the size is not the file's"
    assert pixels.itemsize * 8 == contents.bit_depth, "the depth is not the file's"
    # Valid tiles exchanged for other valid ones are the file of another image. The same tiles must give the same image
    # where the two overlap, for any other header fields.
    same = contents.tiles == original.contents.tiles and contents.tile == original.contents.tile
    if same and contents.side == original.contents.side and contents.width == original.contents.width:
        rows = min(contents.height, original.contents.height)
        if (contents.bit_depth, contents.depth) == (original.contents.bit_depth, original.contents.depth):
            # symbols never differ; floating-point synthesis may change a sample by one grey level
            level = 1 if contents.bit_depth == 8 else -(-contents.depth.peak // 255)
            difference = np.abs(pixels[:rows].astype(np.int64) - original.pixels[:rows]).max()
            assert difference <= level, f"silently another image, by {difference} levels"
    return "decoded"


def fuzz(codec: Codec, cases: range, *, seed: int, verbose: bool = False) -> fuzzing.Result:
    """Runs all cases, as `fuzzing.run`."""
    files = originals(codec)
    for original in files:  # a second time, so that caches of libraries are filled
        assert np.array_equal(compression.decompress(original.data, codec), original.pixels)

    def draw(random: np.random.Generator) -> tuple[str, Callable[[], str]]:
        kind = str(random.choice(KINDS, p=WEIGHTS))
        original = files[random.integers(len(files))]
        data = case(kind, original, codec, random)

        def work() -> str:
            end = outcome(data, original, codec)
            assert end == "refused" or kind.startswith("forged") or data == original.data, "damage was not detected"
            return end

        return kind, work

    return fuzzing.run(draw, cases, seed=seed, mebibytes=MEBIBYTES, verbose=verbose)


def main() -> None:
    parser = fuzzing.parser(__doc__)
    parser.add_argument("--codec", choices=FUZZED, help="the only one to fuzz")
    args = parser.parse_args()
    faulthandler.enable()
    for name in [args.codec] if args.codec else FUZZED:
        fuzzing.report(name, partial(fuzz, narrow(name)), args)


if __name__ == "__main__":
    main()
