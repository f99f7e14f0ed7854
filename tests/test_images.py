"""Image files of every kind -> the right pixels or one clear sentence."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import ExifTags, Image, ImageFile

from jdcsuite.imaging.folders import image_files
from jdcsuite.imaging.picture import Picture
from jdcsuite.imaging.read import EMBEDDED, embedded, exif_iso, read
from jdcsuite.imaging.write import encode
from jdcsuite.types import UserError

LOSSLESS = {"png": {}, "bmp": {}, "tiff": {"compression": "tiff_lzw"}, "webp": {"lossless": True}}
LOADERS = {"png": {}, "jpeg": {}, "webp": {"lossless": True}, "tiff": {}, "bmp": {}}


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


RGB = noise(20, 30, 3)
DEEP = np.random.default_rng(1).integers(0, 65536, (20, 30, 3), dtype=np.uint16)


def png(header: bytes, data: bytes) -> bytes:
    """A PNG written without a library, for bit depths that Pillow cannot write."""
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def deep_png(path: Path, samples: np.ndarray, colour_type: int) -> None:
    height, width = samples.shape[:2]
    rows = samples.astype(">u2").reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    path.write_bytes(png(header, b"".join(b"\0" + row.tobytes() for row in rows)))


def refusal(path: Path, **options: int) -> str:
    """The message, which must be one line, name the file and end with a full stop."""
    with pytest.raises(UserError) as caught:
        read(path, **options)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text and text.endswith("."), text
    return text


@settings(max_examples=40, deadline=None)
@given(
    pixels=st.tuples(st.integers(1, 24), st.integers(1, 24)).flatmap(lambda s: arrays(np.uint8, (*s, 3))),
    kind=st.sampled_from(sorted(LOSSLESS)),
)
def test_read_returns_the_pixels_that_were_saved(tmp_path_factory, pixels, kind):
    path = tmp_path_factory.mktemp("read") / f"x.{kind}"
    Image.fromarray(pixels).save(path, **LOSSLESS[kind])
    np.testing.assert_array_equal(read(path), pixels)


def test_jpeg_is_what_pillow_decodes(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "x.jpg", quality=90)
    out = read(str(tmp_path / "x.jpg"))
    assert out.dtype == np.uint8 and out.flags.writeable
    np.testing.assert_array_equal(out, np.asarray(Image.open(tmp_path / "x.jpg")))


def test_grey_palette_and_opaque_alpha_become_rgb(tmp_path):
    grey, opaque = RGB[..., 0], np.full((20, 30, 1), 255, np.uint8)
    index, table = noise(20, 30, seed=2) % 16, noise(16, 3, seed=3)
    palette = Image.fromarray(index, mode="P")
    palette.putpalette(table.tobytes())
    cases = {
        "grey": (Image.fromarray(grey), np.stack([grey] * 3, -1)),
        "bit": (Image.fromarray(grey > 99), np.stack([np.where(grey > 99, 255, 0)] * 3, -1)),
        "palette": (palette, table[index]),
        "rgba": (Image.fromarray(np.concatenate([RGB, opaque], -1)), RGB),
        "la": (Image.fromarray(np.concatenate([RGB[..., :1], opaque], -1)), np.stack([grey] * 3, -1)),
    }
    for name, (image, expected) in cases.items():
        image.save(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(read(tmp_path / f"{name}.png"), expected, err_msg=name)
    palette.save(tmp_path / "opaque.png", transparency=bytes([255] * 16))
    np.testing.assert_array_equal(read(tmp_path / "opaque.png"), table[index])


ORIENTED = {  # EXIF code -> its inverse
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("code", ORIENTED)
def test_exif_orientation_is_applied(tmp_path, code):
    exif = Image.Exif()
    exif[0x0112] = code
    rgba = np.concatenate([RGB, np.full((20, 30, 1), 255, np.uint8)], -1)
    grey = RGB[..., 0].copy()
    for kind in LOADERS:
        if kind == "bmp":  # has no EXIF
            continue
        # Pillow memory-maps such grey and RGBA TIFFs by default, and scrambles them.
        for stem, pixels in {"rgb": RGB, "rgba": rgba, "grey": grey}.items():
            if (kind, stem) == ("jpeg", "rgba"):
                continue
            Image.fromarray(pixels).save(tmp_path / f"{stem}.{kind}", exif=exif, **LOADERS[kind])
            plain = np.stack([grey] * 3, -1) if stem == "grey" else RGB
            if kind == "jpeg":
                Image.fromarray(pixels).save(tmp_path / "plain.jpeg")
                plain = np.asarray(Image.open(tmp_path / "plain.jpeg").convert("RGB"))
            out = read(tmp_path / f"{stem}.{kind}")
            np.testing.assert_array_equal(out, ORIENTED[code](plain), err_msg=f"{stem}.{kind}")


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize(("tag", "iso"), [(200, 200), (65535, 65535), ((64, 100), 64), (None, None), (0, None)])
def test_exif_iso(tmp_path, kind, tag, iso):
    exif = Image.Exif()
    if tag is not None:
        exif[ExifTags.Base.Make] = "a camera"
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] = tag
    path = tmp_path / f"a.{kind}"
    # not by Pillow, which omits the inner directory of a TIFF
    path.write_bytes(encode(Picture(np.zeros((40, 40, 3), np.uint8), metadata={"exif": exif.tobytes()[6:]}), path))
    assert exif_iso(path) == iso


def test_the_iso_is_read_without_the_pixels(tmp_path, monkeypatch):
    for kind in ("jpg", "png", "webp"):
        Image.new("RGB", (40, 40)).save(tmp_path / f"a.{kind}")
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    assert [exif_iso(path) for path in image_files(tmp_path)] == [None] * 3


def test_more_than_eight_bits_is_refused(tmp_path):
    deep_png(tmp_path / "rgb.png", DEEP, 2)
    deep_png(tmp_path / "grey.png", DEEP[..., :1], 0)
    deep_png(tmp_path / "rgba.png", np.concatenate([DEEP, DEEP[..., :1]], -1), 6)
    tifffile.imwrite(tmp_path / "rgb.tif", DEEP, photometric="rgb")
    tifffile.imwrite(tmp_path / "grey.tif", DEEP[..., 0], compression="zlib")
    tifffile.imwrite(tmp_path / "float.tif", DEEP[..., 0].astype(np.float32))
    tifffile.imwrite(tmp_path / "int32.tif", DEEP[..., 0].astype(np.int32))
    # Pillow opens these without an error and drops the low bytes.
    assert [Image.open(tmp_path / f"rgb.{ext}").mode for ext in ("png", "tif")] == ["RGB", "RGB"]
    for path in sorted(tmp_path.iterdir()):
        assert f"{32 if path.stem in ('float', 'int32') else 16}-bit" in refusal(path)
    tifffile.imwrite(tmp_path / "signed.tif", RGB[..., 0].view(np.int8))
    assert "signed" in refusal(tmp_path / "signed.tif")


def test_the_png_writer_of_these_tests_is_correct(tmp_path):
    """Guards the 16-bit tests: at 8 bits the same function gives a file that is read back."""
    header = struct.pack(">IIBBBBB", 30, 20, 8, 2, 0, 0, 0)
    (tmp_path / "x.png").write_bytes(png(header, b"".join(b"\0" + row.tobytes() for row in RGB)))
    np.testing.assert_array_equal(read(tmp_path / "x.png"), RGB)


def test_transparency_is_refused(tmp_path):
    alpha = np.full((20, 30, 1), 255, np.uint8)
    alpha[7, 9] = 254
    Image.fromarray(np.concatenate([RGB, alpha], -1)).save(tmp_path / "rgba.png")
    Image.fromarray(np.concatenate([RGB, alpha], -1)).save(tmp_path / "rgba.webp", lossless=True)
    Image.fromarray(np.concatenate([RGB[..., :1], alpha], -1)).save(tmp_path / "la.png")
    Image.fromarray(RGB).save(tmp_path / "key.png", transparency=tuple(int(v) for v in RGB[3, 4]))
    Image.fromarray(RGB).quantize(16).save(tmp_path / "palette.png", transparency=3)
    for path in sorted(tmp_path.iterdir()):
        assert "transparent" in refusal(path), path


def test_other_colour_spaces_are_refused(tmp_path):
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "x.jpg")
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "x.tif")
    for path in sorted(tmp_path.iterdir()):
        assert "CMYK" in refusal(path)
    Image.fromarray(RGB).convert("LAB").save(tmp_path / "lab.tif")
    assert "LAB" in refusal(tmp_path / "lab.tif")


def test_several_frames_are_refused_and_a_camera_preview_is_not(tmp_path):
    other = Image.fromarray(255 - RGB)
    for name in ("x.png", "x.webp", "x.tif"):
        Image.fromarray(RGB).save(tmp_path / name, save_all=True, append_images=[other])
        assert "2 frames" in refusal(tmp_path / name)
    Image.fromarray(RGB).save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=[other])
    assert Image.open(tmp_path / "x.jpg").n_frames == 2
    np.testing.assert_array_equal(read(tmp_path / "x.jpg"), np.asarray(Image.open(tmp_path / "x.jpg")))


@pytest.mark.parametrize("kind", LOADERS)
@settings(max_examples=12, deadline=None)
@given(fraction=st.floats(0, 0.97))
def test_a_truncated_file_is_refused(tmp_path_factory, kind, fraction):
    buffer = io.BytesIO()
    Image.fromarray(noise(60, 80, 3)).save(buffer, kind, **LOADERS[kind])
    path = tmp_path_factory.mktemp("cut") / f"x.{kind}"
    path.write_bytes(buffer.getvalue())
    assert read(path).shape == (60, 80, 3)
    path.write_bytes(buffer.getvalue()[: int(fraction * len(buffer.getvalue()))])
    assert any(word in refusal(path) for word in ("damaged", "is not an 8-bit", "is empty"))


def test_files_that_are_no_images_are_refused(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    Image.fromarray(RGB).save(tmp_path / "x.gif")
    for name in ("text.png", "x.gif"):
        assert "convert it to PNG" in refusal(tmp_path / name)
    assert "is empty" in refusal(tmp_path / "empty.jpg")
    assert "does not exist" in refusal(tmp_path / "absent.png")
    (tmp_path / "folder.png").mkdir()
    assert "cannot be read" in refusal(tmp_path / "folder.png")


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    for side in (18_000, 40_000, 200_000):  # above our limit, and above Pillow's
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        (tmp_path / f"{side}.png").write_bytes(png(header, b"\0" * 1000))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("a pixel was decoded"))
    for path in sorted(tmp_path.iterdir()):
        assert "300 megapixels" in refusal(path)
    Image.fromarray(RGB).save(tmp_path / "x.png")
    assert "megapixels" in refusal(tmp_path / "x.png", max_pixels=RGB.shape[0] * RGB.shape[1] - 1)


def test_files_are_sorted_filtered_and_recursive(tmp_path):
    wanted = ["B.PNG", "a.jpg", "deep/d.webp", "deep/er/c.TIFF", "e.bmp", "f.jpeg", "g.tif"]
    for name in [*wanted, "SOURCE.txt", ".hidden.png", ".cache/x.png", "deep/._d.webp", "h.gif", "noext"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [p.relative_to(tmp_path).as_posix() for p in image_files(tmp_path)] == wanted
    hidden = tmp_path / ".cache"  # a hidden folder that the user names is searched
    assert [p.name for p in image_files(hidden)] == ["x.png"]


def test_missing_and_empty_folders_are_refused(tmp_path):
    (tmp_path / "SOURCE.txt").touch()
    for folder, words in [(tmp_path / "absent", "does not exist"), (tmp_path, "holds no image")]:
        with pytest.raises(UserError, match=words) as caught:
            image_files(folder)
        assert str(folder) in str(caught.value)


def test_embedded_photographs():
    from skimage import data

    test = dict(embedded("test"))
    np.testing.assert_array_equal(test["coffee.png"], data.coffee())
    np.testing.assert_array_equal(test["chelsea.png"], data.chelsea())
    train = dict(embedded("train"))
    np.testing.assert_array_equal(train["astronaut.png"], data.astronaut())
    assert not set(train) & set(test) and set(train) == set(EMBEDDED["train"]) and len(test) == 2
    for name, image in {**train, **test}.items():
        assert min(image.shape[:2]) >= 256 and image.shape[2] == 3 and image.std() > 20, name
        assert np.abs(image[..., 0].astype(int) - image[..., 2]).mean() > 3, f"{name} has no colour"
    assert max(image.shape[0] for image in train.values()) > 1000
    with pytest.raises(UserError, match="train or test"):
        embedded("validation")
