"""The contract of a codec, kept by a lossless one without transforms, latents or likelihoods."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from jdcsuite.artifacts import weights
from jdcsuite.coding.codec import Codec, tile_checksum
from jdcsuite.coding.container import Contents, Tile, header_bytes, pack, unpack
from jdcsuite.coding.tiling import Box
from jdcsuite.files import compression
from jdcsuite.imaging.lossless import Lossless
from jdcsuite.judging.metrics import judge
from jdcsuite.types import CorruptFile, Pair, UserError


class LosslessCodec(Codec):
    """Tiles coded one by one by a standard lossless coder."""

    segment_names = ("samples",)

    def __init__(self, *, coder: str) -> None:
        super().__init__()
        self.coder = Lossless(coder=coder)

    def constants(self) -> dict[str, object]:
        return {"coder": self.coder.name}

    def encode_tiles(self, x: Tensor | np.ndarray, contents: Contents) -> Iterator[Tile]:
        if contents.bit_depth != 8:
            raise UserError("this codec takes 8 bits per sample: convert the image to uint8")
        for box in contents.boxes:
            samples = (self.crop(x, box)[0].permute(1, 2, 0) * 255).round().to(torch.uint8)
            checksum = tile_checksum(samples.flatten().int(), box=box, side=contents.side)
            yield Tile(checksum=checksum, segments=[self.coder.encode(samples.numpy())])

    def decode_tiles(self, contents: Contents) -> Iterator[tuple[Box, Tensor]]:
        for box, tile in zip(contents.boxes, contents.tiles, strict=True):
            try:
                samples = torch.from_numpy(self.coder.decode(tile.segments[0]))
            except UserError as error:
                raise CorruptFile(str(error)) from None
            checksum = tile_checksum(samples.flatten().int(), box=box, side=contents.side)
            if samples.shape != (box.height, box.width, 3) or checksum != tile.checksum:
                raise CorruptFile("the decoded samples are not those that were written")
            yield box, samples.permute(2, 0, 1)[None].float() / 255


@pytest.fixture(params=["jpegls", "png"])
def codec(request: pytest.FixtureRequest) -> LosslessCodec:
    net = LosslessCodec(coder=request.param).eval()
    net.update()
    return net


def noisy(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 200, (height, width, 3)).astype(np.uint8)


def as_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize(("size", "tile"), [((1, 1), 64), ((65, 130), 64), ((200, 90), 128), ((200, 90), 0)])
def test_every_image_is_decoded_bit_exactly(codec: LosslessCodec, size: tuple[int, int], tile: int) -> None:
    image = noisy(*size)
    data = codec.compress(image, tile=tile)
    assert np.array_equal(codec.decompress_array(data), image)
    assert torch.equal(codec.decompress(data), as_tensor(image))
    assert codec.compress(as_tensor(image), tile=tile) == data
    assert codec.estimate_bytes(image, tile=tile) == len(data)
    contents = unpack(data)
    assert contents.model_id == codec.model_id and not contents.same_machine
    assert len(contents.tiles) == len(contents.boxes)


def test_files_and_metadata_pass_through_the_public_functions(codec: LosslessCodec) -> None:
    image = noisy(70, 50)
    data = compression.compress(image, codec, tile=64, metadata={"icc": b"profile"})
    assert np.array_equal(compression.decompress(data, codec), image)
    assert unpack(data).metadata == {"icc": b"profile"}
    for wrong in ({"quality": 50.0}, {"strength": 0.5}, {"sigma": 10.0}):
        with pytest.raises(UserError):
            compression.compress(image, codec, **wrong)
    with pytest.raises(UserError, match="8 bits"):
        codec.compress(image.astype(np.uint16))


def test_a_codec_in_training_mode_does_not_code(codec: LosslessCodec) -> None:
    data = codec.compress(noisy(8, 8))
    assert not codec.train().is_ready
    for work in (lambda: codec.compress(noisy(8, 8)), lambda: codec.decompress(data)):
        with pytest.raises(RuntimeError, match="eval"):
            work()


def test_damaged_bytes_are_refused(codec: LosslessCodec) -> None:
    data = codec.compress(noisy(20, 30))
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(CorruptFile):
            codec.decompress(bytes(damaged))
    for damaged in (data[:-1], data[: len(data) // 2], data + b"\0", b"", noisy(9, 9).tobytes()):
        with pytest.raises(CorruptFile):
            codec.decompress(damaged)


def test_forged_tiles_with_valid_file_checksums_are_refused(codec: LosslessCodec) -> None:
    image = noisy(64, 128)
    contents = unpack(codec.compress(image, tile=64))
    first, second = contents.tiles
    other = unpack(codec.compress(noisy(64, 64, seed=1))).tiles[0]
    for tiles in (
        [second, first],
        [replace(first, segments=other.segments), second],
        [replace(first, checksum=first.checksum ^ 1), second],
        [replace(first, segments=[first.segments[0][:999]]), second],
        [replace(first, segments=[b"no image at all"]), second],
        [replace(tile, segments=tile.segments * 2) for tile in (first, second)],
    ):
        with pytest.raises(CorruptFile):
            codec.decompress_array(pack(replace(contents, tiles=tiles)))
    assert np.array_equal(codec.decompress_array(pack(contents)), image)


def test_a_file_opens_only_with_the_codec_that_wrote_it() -> None:
    jpegls, png = (LosslessCodec(coder=coder).eval() for coder in ("jpegls", "png"))
    assert jpegls.model_id == LosslessCodec(coder="jpegls").model_id != png.model_id
    with pytest.raises(CorruptFile, match=png.model_id.hex()):
        jpegls.decompress(png.compress(noisy(5, 5)))


def test_it_is_judged_on_the_bytes_of_its_file(codec: LosslessCodec) -> None:
    clean = as_tensor(np.full((180, 192, 3), 128, np.uint8))
    pair = Pair(noisy=as_tensor(noisy(180, 192)), clean=clean, sigma=torch.tensor([torch.nan]))
    row, x_hat = judge(codec, pair)
    data = codec.compress(pair.noisy)
    assert torch.equal(x_hat, pair.noisy)
    assert row.psnr == row.psnr_noisy and row.ms_ssim == row.ms_ssim_noisy
    assert row.bpp == 8 * len(data) / (180 * 192) > 20
    assert row.bpp_payload + row.bpp_header == pytest.approx(row.bpp)
    assert row.bpp_header == 8 * header_bytes(unpack(data)) / (180 * 192)
    assert row.bpp_est is None


def test_its_weights_file_has_no_tables_and_needs_none(codec: LosslessCodec, tmp_path) -> None:
    weights.save(codec, {}, tmp_path / "weights.safetensors", about={})
    assert not any(name.startswith("tables.") for name in weights.read(tmp_path / "weights.safetensors")[2])
    assert compression.load(codec) is codec
