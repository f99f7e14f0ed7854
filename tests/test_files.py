"""Image files of 8 and 16 bits are read and written without loss: every sample, grey, ICC and EXIF."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin
from test_images import DEEP, ORIENTED, RGB, deep_png, png

from jdcsuite.imaging import atomic, metadata
from jdcsuite.imaging.picture import Picture
from jdcsuite.imaging.pixels import to_grey
from jdcsuite.imaging.write import _chunk, encode
from jdcsuite.types import UserError

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif(**tags: object) -> Image.Exif:
    exif_record = Image.Exif()
    exif_record[271], exif_record[306] = "Maker", "2024:01:02 03:04:05"
    exif_record.get_ifd(34665)[33434] = TiffImagePlugin.IFDRational(1, 50)
    exif_record.get_ifd(34853)[1] = "N"
    for tag, value in tags.items():
        exif_record[int(tag[1:])] = value
    return exif_record


def refusal(path: Path, **options: int) -> str:
    with pytest.raises(UserError) as caught:
        Picture.read(path, **options)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text
    return text


def deep_files(folder: Path) -> dict[str, tuple[np.ndarray, bool]]:
    """16-bit files from other encoders -> their samples, and whether they are grey."""
    grey = DEEP[..., 0]
    opaque = np.full((20, 30, 1), 65535, np.uint16)
    deep_png(folder / "rgb.png", DEEP, 2)
    deep_png(folder / "grey.png", grey[..., None], 0)
    deep_png(folder / "rgba.png", np.concatenate([DEEP, opaque], -1), 6)
    deep_png(folder / "la.png", np.concatenate([DEEP[..., :1], opaque], -1), 4)
    tifffile.imwrite(folder / "rgb.tif", DEEP, photometric="rgb")
    tifffile.imwrite(folder / "big.tif", DEEP, photometric="rgb", byteorder=">", compression="lzw", predictor=True)
    planes = np.ascontiguousarray(np.moveaxis(DEEP, -1, 0))
    tifffile.imwrite(folder / "grey.tif", grey, compression="zlib", photometric="minisblack")
    tifffile.imwrite(folder / "white.tif", 65535 - grey, photometric="miniswhite")
    tifffile.imwrite(folder / "planar.tif", planes, photometric="rgb", planarconfig="separate")
    replicated = np.stack([grey] * 3, -1)
    return {
        path.name: (replicated, True) if path.stem in ("grey", "la", "white") else (DEEP, False)
        for path in folder.iterdir()
    }


def test_sixteen_bits_are_read_without_loss(tmp_path):
    for name, (expected, grey) in deep_files(tmp_path).items():
        picture = Picture.read(tmp_path / name)
        assert picture.pixels.dtype == np.uint16 and picture.bit_depth == 16, name
        np.testing.assert_array_equal(picture.pixels, expected, err_msg=name)
        assert picture.grey == grey, name


@pytest.mark.parametrize("code", ORIENTED)
def test_sixteen_bits_are_rotated_upright(tmp_path, code):
    turned = Image.Exif()
    turned[274] = code
    plain = imagecodecs.png_encode(DEEP)
    (tmp_path / "x.png").write_bytes(plain[:33] + _chunk(b"eXIf", turned.tobytes()[6:]) + plain[33:])
    tifffile.imwrite(tmp_path / "x.tif", DEEP, photometric="rgb", extratags=[(274, "H", 1, code, True)])
    for name in ("x.png", "x.tif"):
        np.testing.assert_array_equal(Picture.read(tmp_path / name).pixels, ORIENTED[code](DEEP), err_msg=name)


@pytest.mark.parametrize("ending", ["png", "tif", "TIFF", "webp", "jpg"])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
def test_pixels_and_metadata_survive_writing_and_reading(tmp_path, ending, grey, bits):
    pixels = RGB if bits == 8 else DEEP
    pixels = np.stack([pixels[..., 0]] * 3, -1) if grey else pixels[:, ::-1]  # a view, too
    picture = Picture(pixels, grey, {"icc": ICC, "exif": exif().tobytes()[6:]})
    path = tmp_path / f"x.{ending}"
    if bits == 16 and ending in ("webp", "jpg"):
        with pytest.raises(UserError, match="16 bits"):
            encode(picture, path)
        return
    atomic.write(path, encode(picture, path))
    back = Picture.read(path)
    assert back.pixels.dtype == pixels.dtype
    if ending == "jpg":
        assert np.abs(back.pixels.astype(int) - pixels).mean() < 8
    else:
        np.testing.assert_array_equal(back.pixels, pixels)
    assert back.grey == (grey and ending != "webp")  # WebP has no grey
    assert back.metadata["icc"] == ICC
    with Image.open(path) as image:
        tags = image.getexif()
        assert tags[271] == "Maker" and float(tags.get_ifd(34665)[33434]) == 0.02 and tags.get_ifd(34853)[1] == "N"
    if bits == 16 and ending in ("tif", "TIFF"):  # an independent reader
        np.testing.assert_array_equal(tifffile.imread(path), pixels[..., 0] if grey else pixels)
    if bits == 16 and ending == "png":
        np.testing.assert_array_equal(imagecodecs.png_decode(path.read_bytes()), pixels[..., 0] if grey else pixels)


def test_pictures_without_metadata_have_none(tmp_path):
    for ending in ("png", "tif", "webp", "jpg"):
        atomic.write(tmp_path / f"x.{ending}", encode(Picture(RGB), tmp_path / f"x.{ending}"))
        assert Picture.read(tmp_path / f"x.{ending}").metadata == {}


def test_orientation_is_applied_once(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "turned.png", exif=exif(t274=6), icc_profile=ICC)
    picture = Picture.read(tmp_path / "turned.png")
    np.testing.assert_array_equal(picture.pixels, np.rot90(RGB, -1))
    atomic.write(tmp_path / "back.png", encode(picture, tmp_path / "back.png"))
    again = Picture.read(tmp_path / "back.png")
    np.testing.assert_array_equal(again.pixels, picture.pixels)
    assert Image.open(tmp_path / "back.png").getexif().get(274, 1) == 1
    assert Image.open(tmp_path / "back.png").getexif()[271] == "Maker"


def test_exif_without_orientation_is_kept_byte_for_byte(tmp_path):
    raw = exif().tobytes()
    Image.fromarray(RGB).save(tmp_path / "x.jpg", exif=raw)
    assert Picture.read(tmp_path / "x.jpg").metadata["exif"] == raw[6:]


def camera_exif(order: str, orientation: int) -> bytes:
    """EXIF as cameras write it: UTF-8 text, an orientation, a maker note with offsets of its own, and a thumbnail."""
    artist, note, thumbnail = "Zoë 写真\0".encode(), b"NOTE" + bytes(range(200)), b"\xff\xd8" + bytes(50) + b"\xff\xd9"
    blob = 8 + 2 + 3 * 12 + 4
    inner = blob + len(artist)
    second = inner + 2 + 12 + 4 + len(note)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    first = struct.pack(f"{order}H", 3) + struct.pack(f"{order}HHIHH", 274, 3, 1, orientation, 0)
    first += struct.pack(f"{order}HHII", 315, 2, len(artist), blob) + struct.pack(f"{order}HHII", 34665, 4, 1, inner)
    first += struct.pack(f"{order}I", second)
    exif_ifd = struct.pack(f"{order}HHHIII", 1, 37500, 7, len(note), inner + 18, 0)
    last = struct.pack(f"{order}H", 2) + struct.pack(f"{order}HHII", 513, 4, 1, second + 30)
    last += struct.pack(f"{order}HHIII", 514, 4, 1, len(thumbnail), 0)
    return head + first + artist + exif_ifd + note + last + thumbnail


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_exif_of_a_turned_image_differs_in_its_orientation_only(tmp_path, order, kind):
    raw = camera_exif(order, 6)
    Image.fromarray(RGB).save(tmp_path / f"x.{kind}", exif=b"Exif\0\0" + raw)
    picture = Picture.read(tmp_path / f"x.{kind}")
    assert picture.pixels.shape == (30, 20, 3)
    assert picture.metadata["exif"] == camera_exif(order, 1)
    atomic.write(tmp_path / f"back.{kind}", encode(picture, tmp_path / f"back.{kind}"))
    assert Picture.read(tmp_path / f"back.{kind}").metadata["exif"] == camera_exif(order, 1)


@pytest.mark.parametrize("order", ["<", ">"])
def test_an_orientation_of_another_type_is_set_to_1_too(tmp_path, order):
    """Pillow and viewers apply it as LONG, and the image was turned twice."""
    raw = bytearray(camera_exif(order, 6))
    raw[10:22] = struct.pack(f"{order}HHII", 274, 4, 1, 6)
    Image.fromarray(RGB).save(tmp_path / "x.jpg", exif=b"Exif\0\0" + bytes(raw))
    picture = Picture.read(tmp_path / "x.jpg")
    assert picture.pixels.shape == (30, 20, 3) and picture.metadata["exif"] == camera_exif(order, 1)


def test_exif_in_a_text_chunk_of_imagemagick_is_kept(tmp_path):
    raw, text = b"Exif\0\0" + camera_exif("<", 6), PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", f"\nexif\n    {len(raw)}\n{raw.hex()}\n")
    Image.fromarray(RGB).save(tmp_path / "x.png", pnginfo=text)
    picture = Picture.read(tmp_path / "x.png")
    assert picture.pixels.shape == (30, 20, 3) and picture.metadata["exif"] == camera_exif("<", 1)


@pytest.mark.parametrize("exif_bytes", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"none", camera_exif("<", 6)[:20]])
def test_damaged_exif_is_kept(exif_bytes):
    assert metadata.upright(exif_bytes) in (exif_bytes, camera_exif("<", 1)[:20])


def test_text_of_a_tiff_is_kept_in_any_script(tmp_path):
    picture = Picture(RGB, metadata={"exif": camera_exif("<", 1)})
    for name in ("a.tif", "b.tif"):  # written, read and written again
        atomic.write(tmp_path / name, encode(picture, tmp_path / name))
        picture = Picture.read(tmp_path / name)
    with Image.open(tmp_path / "b.tif") as image:
        assert image.tag_v2[315].encode("latin-1").decode() == "Zoë 写真"


def with_chunks(path, pixels, *chunks):
    plain = imagecodecs.png_encode(pixels)
    path.write_bytes(plain[:33] + b"".join(_chunk(kind, data) for kind, data in chunks) + plain[33:])
    return Picture.read(path)


def test_colour_declarations_that_cannot_be_kept_are_told(tmp_path):
    linear, srgb = (b"gAMA", struct.pack(">I", 100_000)), (b"gAMA", struct.pack(">I", 45_455))
    code, profile = (b"cICP", bytes((9, 16, 0, 1))), (b"iCCP", b"x\0\0" + zlib.compress(ICC))
    path = tmp_path / "x.png"
    for pixels in (RGB, DEEP):
        assert with_chunks(path, pixels, linear).lost_colour == ("gAMA 1",)
        assert with_chunks(path, pixels, code, linear).lost_colour == ("cICP 9-16-0-1",)
        for harmless in (
            (),
            (srgb,),
            (linear, (b"sRGB", b"\0")),
            (profile, linear),
            ((b"cICP", bytes((1, 13, 0, 1))),),
        ):
            assert with_chunks(path, pixels, *harmless).lost_colour == ()


def test_a_transparent_colour_that_no_16_bit_pixel_has_is_harmless(tmp_path):
    grey, unused = DEEP[..., 0].copy(), np.setdiff1d(np.arange(65536), DEEP)[0]
    picture = with_chunks(tmp_path / "x.png", DEEP, (b"tRNS", struct.pack(">HHH", *[unused] * 3)))
    np.testing.assert_array_equal(picture.pixels, DEEP)
    picture = with_chunks(tmp_path / "x.png", grey, (b"tRNS", struct.pack(">H", unused)))
    assert picture.grey and np.array_equal(picture.pixels[..., 0], grey)
    with pytest.raises(UserError, match="transparent pixels"):
        with_chunks(tmp_path / "x.png", DEEP, (b"tRNS", struct.pack(">HHH", *DEEP[3, 4])))


def test_grey_is_the_mean_of_three_channels_rounded():
    for dtype, top in ((np.uint8, 255), (np.uint16, 65535)):
        pixels = np.random.default_rng(0).integers(0, top + 1, (50, 60, 3)).astype(dtype)
        pixels[0] = top
        np.testing.assert_array_equal(to_grey(pixels), np.rint(pixels.mean(-1)).astype(dtype))


def test_refusals_are_one_sentence(tmp_path):
    (tmp_path / "empty.png").touch()
    assert "is empty" in refusal(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("x")
    assert "8- or 16-bit PNG" in refusal(tmp_path / "text.png")
    holes = np.full((20, 30), np.nan, np.float32)
    tifffile.imwrite(tmp_path / "nan.tif", holes)
    assert "floating-point" in refusal(tmp_path / "nan.tif")
    tifffile.imwrite(tmp_path / "half.tif", holes.astype(np.float16))
    refusal(tmp_path / "half.tif")
    tifffile.imwrite(tmp_path / "int.tif", DEEP.astype(np.int16), photometric="rgb")
    refusal(tmp_path / "int.tif")
    tifffile.imwrite(tmp_path / "long.tif", DEEP[..., 0].astype(np.uint32))
    assert "32-bit" in refusal(tmp_path / "long.tif")
    clear = np.full((20, 30, 1), 65534, np.uint16)
    deep_png(tmp_path / "alpha.png", np.concatenate([DEEP, clear], -1), 6)
    tifffile.imwrite(
        tmp_path / "alpha.tif", np.concatenate([DEEP, clear], -1), photometric="rgb", extrasamples=["unassalpha"]
    )
    for name in ("alpha.png", "alpha.tif"):
        assert "transparent" in refusal(tmp_path / name)
    tifffile.imwrite(tmp_path / "cmyk.tif", np.concatenate([DEEP, clear], -1), photometric="separated")
    refusal(tmp_path / "cmyk.tif")
    Image.fromarray(RGB).save(tmp_path / "film.webp", save_all=True, append_images=[Image.fromarray(255 - RGB)])
    assert "frames" in refusal(tmp_path / "film.webp")
    tifffile.imwrite(tmp_path / "pages.tif", np.stack([DEEP] * 2), photometric="rgb")
    assert "2 frames" in refusal(tmp_path / "pages.tif")
    huge = png(bytes.fromhex("00010000 00010000 10 02 00 00 00".replace(" ", "")), b"\0" * 100)
    (tmp_path / "huge.png").write_bytes(huge)
    assert "megapixels" in refusal(tmp_path / "huge.png")


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9, 0.97])
def test_a_truncated_16_bit_file_is_refused(tmp_path, fraction):
    deep_files(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * fraction)])
        assert any(word in refusal(path) for word in ("damaged", "is not", "16-bit")), path


def test_exceeding_a_format_s_limit_is_one_sentence(tmp_path):
    wide = Picture(np.zeros((1, 20_000, 3), np.uint8))
    with pytest.raises(UserError, match="another format"):
        encode(wide, tmp_path / "x.webp")
    with pytest.raises(UserError, match="no known image format"):
        encode(wide, tmp_path / "x.gif")
    assert Image.open(io.BytesIO(encode(wide, tmp_path / "x.png"))).size == (20_000, 1)


@pytest.mark.parametrize("ending", ["png", "tif", "jpg", "webp"])
def test_metadata_of_a_stranger_s_file_do_not_spoil_the_image(tmp_path, ending):
    """A PNG with them could not be opened again."""
    path = tmp_path / f"x.{ending}"
    path.write_bytes(encode(Picture(RGB, metadata={"exif": b"\xff" * 300, "icc": ICC}), path))
    assert Picture.read(path).metadata == {"icc": ICC}
    large = Picture(RGB, metadata={"icc": bytes(range(256)) * 8192})
    if ending == "png":
        with pytest.raises(UserError, match="ICC profile of more than 1 MiB"):
            encode(large, path)
    else:
        path.write_bytes(encode(large, path))
        assert Picture.read(path).metadata == large.metadata


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_images_with_unreadable_exif_or_a_large_profile_are_read(tmp_path, kind):
    path, profile = tmp_path / "x", bytes(range(256)) * 8192
    Image.fromarray(RGB).save(path, kind, exif=b"\xff" * 300, icc_profile=profile, lossless=True)
    picture = Picture.read(path)
    np.testing.assert_array_equal(picture.pixels, RGB)
    assert picture.metadata == {"icc": profile}
