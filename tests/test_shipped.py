"""The weights in the package: any rate and noise, targets of size and PSNR, noise estimates, `jdc info`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from test_cli import jdc as jdc  # the fixture
from test_compression import photo, saved

import jdcsuite
from jdcsuite.artifacts import weights
from jdcsuite.coding.codec import Codec
from jdcsuite.coding.conditions import MAX_SIGMA, default_quality
from jdcsuite.coding.container import pack, unpack
from jdcsuite.data.camera import PARAMETERS, camera_noise
from jdcsuite.data.draw import Draw
from jdcsuite.data.law import NoiseLaw
from jdcsuite.data.noise import GaussianNoise
from jdcsuite.data.recompression import jpeg
from jdcsuite.files import compression
from jdcsuite.imaging.pixels import to_bytes, to_tensor
from jdcsuite.models.flagship import Flagship
from jdcsuite.types import CorruptFile, UserError

SHAPE = {"widths": [8, 8], "blocks": [1, 1], "num_latents": 16, "prior_width": 8, "embedding": 8}
SHAPE["noise_estimate"] = "bands"
ABOUT = {"method": "flagship", "run": "tiny", "licence": "MIT", "data": "drawings", "samples": 1234, "sigma": None}


def flagship(path: Path, *, seed: int = 0) -> Flagship:
    torch.manual_seed(seed)
    model = Flagship(**SHAPE).eval()
    model.update()
    weights.save(model, {"_target_": "jdcsuite.models.flagship.Flagship", **SHAPE}, path, about=ABOUT)
    return model


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wheel") / "flagship.safetensors"
    flagship(path)
    return path


@pytest.fixture
def shipped(stored: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(weights, "SHIPPED", stored)
    return stored


@pytest.fixture
def none_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "SHIPPED", tmp_path / "flagship.safetensors")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "noisy.png"
    Image.fromarray(photo(150, 170)).save(path)
    return path


def sentence(err: str) -> str:
    (line,) = err.strip().splitlines()
    assert line.startswith("jdc: ")
    return line


# -- default options -----------------------------------------------------------------------------------------------


def test_weights_and_noise_level_are_optional(jdc, shipped, picture, tmp_path):
    coded, back = tmp_path / "x.jdc", tmp_path / "y.png"
    status, out, err = jdc("compress", picture, "-o", coded)
    assert status == 0 and err == "", err
    request = unpack(coded.read_bytes()).side.request
    assert f"quality {request.quality / 10:g}" in out and f"noise {request.noise / 16:.1f} estimated" in out
    assert f"{8 * len(coded.read_bytes()) / (150 * 170):.3f} bpp" in out
    # the quality is chosen before the noise estimate is rounded to the units of the file
    assert request.quality == pytest.approx(10 * default_quality(request.noise / 16), abs=3) and request.strength == 100
    assert jdc("decompress", coded, "-o", back)[0] == 0
    data = jdcsuite.compress(photo(150, 170))
    assert data == coded.read_bytes()
    np.testing.assert_array_equal(np.asarray(Image.open(back)), jdcsuite.decompress(data))


def test_the_settings_are_in_the_file_and_change_its_size(shipped):
    x = photo(80, 90)
    coded = jdcsuite.compress(x, quality=61.26, strength=0.5, sigma=12.03)
    request = unpack(coded).side.request
    assert (request.quality, request.noise, request.strength) == (613, 192, 50)
    sizes = [len(jdcsuite.compress(x, quality=q)) for q in (0, 40, 80)]
    assert sizes == sorted(sizes) and sizes[2] > 2 * sizes[0]


def test_a_package_without_weights_asks_for_some(jdc, none_shipped, picture, tmp_path):
    for words in (["compress", picture, "-o", tmp_path / "x.jdc"], ["info"]):
        status, _, err = jdc(*words)
        assert status == 2 and "came without weights" in sentence(err) and "--weights" in err
    with pytest.raises(UserError, match="weights="):
        jdcsuite.compress(photo(8, 8))


def test_a_file_of_other_weights_names_the_ones_it_needs(jdc, shipped, picture, tmp_path):
    run = tmp_path / "run"
    mine = saved(run)
    coded = tmp_path / "x.jdc"
    assert jdc("compress", picture, "-o", coded, "--weights", run)[0] == 0
    status, _, err = jdc("decompress", coded, "-o", tmp_path / "y.png")
    assert status == 1 and mine.model_id.hex() in err and compression.load().model_id.hex() in err
    assert "the weights in jdcsuite" in err and "--weights" in err and not (tmp_path / "y.png").exists()


def test_the_package_links_to_the_weights_of_the_experiment():
    link = Path(jdcsuite.__file__).with_name("flagship.safetensors")
    assert weights.__dict__["SHIPPED"] == link
    if link.is_symlink():
        assert str(link.readlink()) == "../../experiments/flagship/weights/flagship.safetensors"
        assert weights.read_about(link)["method"]


# -- targets --------------------------------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """Qualities of all calls, by method."""
    seen: dict[str, list[float]] = {"estimate_bytes": [], "compress": []}

    def counting(name: str):
        own = getattr(Codec, name)

        def method(self, *args, **kwargs):
            seen[name].append(kwargs["quality"])
            return own(self, *args, **kwargs)

        return method

    for name in seen:
        monkeypatch.setattr(Codec, name, counting(name))
    return seen


@pytest.mark.parametrize("share", [0.05, 0.3, 0.7, 0.97])
@pytest.mark.parametrize("option", ["--max-size", "--target-bpp"])
def test_files_are_within_the_size_limit_and_near_it(jdc, shipped, picture, tmp_path, calls, share, option):
    low, high = (len(jdcsuite.compress(photo(150, 170), quality=q)) for q in (0, 100))
    most = int(low * (high / low) ** share)
    for seen in calls.values():
        seen.clear()
    words = ["compress", picture, "-o", tmp_path / "x.jdc", option]
    status, out, err = jdc(*words, most if option == "--max-size" else 8 * most / (150 * 170))
    assert status == 0, err
    size = (tmp_path / "x.jdc").stat().st_size
    assert 0.95 * most < size <= most
    assert len(calls["estimate_bytes"]) <= 5 and len(calls["compress"]) <= 3
    assert f"quality {unpack((tmp_path / 'x.jdc').read_bytes()).side.request.quality / 10:g}" in out


def test_a_generous_size_limit_gives_the_best_quality(jdc, shipped, picture, tmp_path):
    assert jdc("compress", picture, "-o", tmp_path / "x.jdc", "--max-size", "1.5M")[0] == 0
    assert unpack((tmp_path / "x.jdc").read_bytes()).side.request.quality == 1000


@pytest.mark.parametrize("words", [["--max-size", "100"], ["--target-bpp", "0.01"]])
def test_an_unreachable_size_names_the_size_of_quality_0(jdc, shipped, picture, tmp_path, words):
    status, _, err = jdc("compress", picture, "-o", tmp_path / "x.jdc", *words)
    smallest = len(jdcsuite.compress(photo(150, 170), quality=0))
    assert status == 1 and "quality 0," in sentence(err) and f"{smallest} bytes" in err
    assert not (tmp_path / "x.jdc").exists()


def test_the_size_limit_holds_if_estimates_are_too_low(jdc, shipped, picture, tmp_path, monkeypatch):
    own = Codec.estimate_bytes
    monkeypatch.setattr(Codec, "estimate_bytes", lambda *args, **kwargs: 0.7 * own(*args, **kwargs))
    status, _, err = jdc("compress", picture, "-o", tmp_path / "x.jdc", "--max-size", 3000)
    assert status == 0, err
    assert 0.7 * 3000 < (tmp_path / "x.jdc").stat().st_size <= 3000


def test_a_psnr_target_is_met_closely_in_few_tries(jdc, shipped, picture, tmp_path, calls):
    x = photo(150, 170)

    def psnr(quality: float) -> float:
        return compression.psnr(jdcsuite.decompress(jdcsuite.compress(x, quality=quality)), x)

    low, high = psnr(0), psnr(100)
    target = (low + high) / 2
    calls["compress"].clear()
    status, out, err = jdc("compress", picture, "-o", tmp_path / "x.jdc", "--target-psnr", target)
    assert status == 0 and "noise included" in out, err
    assert len(calls["compress"]) <= 5 and calls["estimate_bytes"] == []
    reached = compression.psnr(jdcsuite.decompress((tmp_path / "x.jdc").read_bytes()), x)
    assert target <= reached < target + 1
    status, _, err = jdc("compress", picture, "-o", tmp_path / "y.jdc", "--target-psnr", 98)
    assert status == 1 and f"{high:.2f} dB" in sentence(err) and not (tmp_path / "y.jdc").exists()
    status, _, err = jdc("compress", picture, "-o", tmp_path / "y.jdc", "--target-psnr", target, "--max-size", 300)
    assert status == 1 and "no quality meets the target" in sentence(err)


def test_any_rate_weights_compete_with_those_of_one_rate(jdc, shipped, picture, tmp_path):
    saved(tmp_path / "run")
    x, words = photo(150, 170), ["compress", picture, "-o", tmp_path / "x.jdc", "--force", "--max-size"]
    rung = jdcsuite.compress(x, tmp_path / "run")
    db = compression.psnr(jdcsuite.decompress(rung, tmp_path / "run"), x)
    both = ["--weights", shipped, "--weights", tmp_path / "run"]
    for most in (len(rung) - 1, len(rung), 10**6):
        assert jdc(*words, most)[0] == 0
        own = (tmp_path / "x.jdc").read_bytes()
        better = len(rung) > most or compression.psnr(jdcsuite.decompress(own), x) > db
        status, out, err = jdc(*words, most, *both)
        assert status == 0 and "dB" in out, err
        assert (tmp_path / "x.jdc").read_bytes() == (own if better else rung)
        assert ("quality" in out) == better


@pytest.mark.parametrize(
    ("word", "size"), [("200000", 200_000), ("200k", 200_000), ("1.5M", 1_500_000), ("2KiB", 2048), (".5 mb", 500_000)]
)
def test_sizes(word, size):
    from jdcsuite.cli import options

    assert options.size("max-size")(word) == size


# -- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--quality", "101"], "give 0 (smallest file) to 100"),
        (["--quality", "-1"], "give 0 (smallest file) to 100"),
        (["--quality", "abc"], "give 0 (smallest file) to 100"),
        (["--quality", "nan"], "give 0 (smallest file) to 100"),
        (["--strength", "2"], "give 0 (keep the noise) to 1"),
        (["--sigma", "inf"], "is not a noise level"),
        (["--target-bpp", "0"], "bits per pixel above 0"),
        (["--target-bpp", "nan"], "bits per pixel above 0"),
        (["--target-psnr", "many"], "0 to 99 dB"),
        (["--max-size", "big"], "is not a size"),
        (["--max-size", "0"], "is not a size"),
        (["--max-size", "-5"], "is not a size"),
        (["--max-size", "5i"], "is not a size"),
        (["--quality", "50", "--max-size", "5k"], "leave one of them out"),
        (["--quality", "50", "--weights", "RUN"], "leave quality out"),
        (["--strength", "0", "--quality", "3", "--weights", "RUN"], "leave quality and strength out"),
        (["--sigma", "5", "--weights", "RUN"], "leave sigma out"),
    ],
)
def test_an_unsupported_option_is_one_sentence_for_all_images(jdc, shipped, picture, tmp_path, words, message):
    saved(tmp_path / "run")
    Image.fromarray(photo(20, 20)).save(tmp_path / "b.png")
    given = [str(tmp_path / "run") if word == "RUN" else word for word in words]
    status, _, err = jdc("compress", picture, tmp_path / "b.png", "-o", tmp_path / "out", *given)
    assert status == 2 and message in sentence(err) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quality": 101}, "0 \\(smallest file\\) to 100"),
        ({"quality": float("nan")}, "to 100"),
        ({"strength": -0.1}, "to 1"),
        ({"sigma": float("inf")}, "no.* noise level"),
    ],
)
def test_options_for_arrays_have_the_same_limits(shipped, options, message):
    with pytest.raises(UserError, match=message):
        jdcsuite.compress(photo(8, 8), **options)


def test_shipped_weights_refuse_arrays_that_are_not_images(shipped):
    with pytest.raises(UserError, match="NaN"):
        jdcsuite.compress(np.full((8, 8, 3), np.nan))


def test_weights_of_one_rate_refuse_settings(tmp_path):
    saved(tmp_path)
    for options in ({"quality": 5}, {"strength": 1}, {"sigma": 5}):
        with pytest.raises(UserError, match="leave"):
            jdcsuite.compress(photo(8, 8), tmp_path, **options)


def test_files_of_another_kind_of_codec_are_refused(shipped, tmp_path):
    """Even if the file names these weights."""
    saved(tmp_path)
    one_rate, any_rate = jdcsuite.compress(photo(8, 8), tmp_path), jdcsuite.compress(photo(8, 8))
    assert (one_rate[3], any_rate[3]) == (2, 3)
    for content, name in ((one_rate, None), (any_rate, tmp_path)):
        with pytest.raises(CorruptFile, match="written with weights"):
            jdcsuite.decompress(content, name)
        contents = unpack(content)
        forged = bytearray(pack(contents))
        forged[5:13] = compression.load(name).model_id
        with pytest.raises(CorruptFile, match="another kind"):
            jdcsuite.decompress(_sealed(bytes(forged)), name)


def _sealed(data: bytes) -> bytes:
    import zlib

    return data[:-4] + zlib.crc32(data[:-4]).to_bytes(4, "little")


def test_a_file_of_a_newer_version_asks_for_a_newer_jdcsuite(jdc, shipped, tmp_path):
    data = bytearray(jdcsuite.compress(photo(8, 8)))
    data[3] = 4
    (tmp_path / "x.jdc").write_bytes(_sealed(bytes(data)))
    for words in (["decompress", tmp_path / "x.jdc", "-o", tmp_path / "y.png"], ["info", tmp_path / "x.jdc"]):
        status, _, err = jdc(*words)
        assert status == 1 and "version 4" in sentence(err) and "update jdcsuite" in err


# -- noise ----------------------------------------------------------------------------------------------------------


def test_the_warning_threshold_is_the_strongest_training_noise():
    assert NoiseLaw().highest == MAX_SIGMA


def test_noise_beyond_the_training_range_gives_a_warning(jdc, shipped, picture, tmp_path):
    status, out, err = jdc("compress", picture, "-o", tmp_path / "x.jdc", "--sigma", 60)
    assert status == 0 and "1 image" in out and (tmp_path / "x.jdc").exists()
    assert "warning" in sentence(err) and "60" in err and "55" in err
    assert jdc("compress", picture, "-o", tmp_path / "x.jdc", "--sigma", 55, "--force")[2] == ""


def white(sigma: float) -> np.ndarray:
    random = np.random.default_rng(0)
    ramp = np.linspace(60, 190, 128)[None, :, None] + np.zeros((128, 128, 3))
    return np.clip(np.rint(ramp + random.normal(0, sigma, ramp.shape)), 0, 255).astype(np.uint8)


def shared(sigma: float) -> np.ndarray:
    """Noise of blocks of 4x4 pixels."""
    random = np.random.default_rng(0)
    ramp = np.linspace(60, 190, 128)[None, :, None] + np.zeros((128, 128, 3))
    noise = np.kron(random.normal(0, sigma, (32, 32, 3)), np.ones((4, 4, 1)))
    return np.clip(np.rint(ramp + noise), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (white(10), ""),
        (white(15), ""),
        (white(30), "far from the 10"),
        (white(3), "far from the 10"),
        (shared(10), "correlated"),
    ],
)
def test_weights_of_one_noise_level_warn_of_another(jdc, tmp_path, pixels, message):
    model = saved(tmp_path / "run")
    config = weights.read(tmp_path / "run" / "weights.safetensors")[0]
    weights.save(model, config, tmp_path / "run" / "weights.safetensors", about={"sigma": 10})
    Image.fromarray(pixels).save(tmp_path / "a.png")
    status, _, err = jdc("compress", tmp_path / "a.png", "-o", tmp_path / "x.jdc", "--weights", tmp_path / "run")
    assert status == 0 and (tmp_path / "x.jdc").exists()
    assert (message in sentence(err) and "warning" in err) if message else err == ""


def test_noise_is_estimated_by_the_network_in_the_package(jdc, shipped, picture, tmp_path):
    (tmp_path / "more").mkdir()
    Image.fromarray(shared(10)).save(tmp_path / "more" / "b.png")
    status, out, err = jdc("noise", tmp_path / "more", f"{tmp_path}/*.png", "--json")
    assert status == 0 and err == "", err
    b, a = json.loads(out)
    assert a["picture"] == str(picture) and (a["correlated"], b["correlated"]) == (False, True)
    expected = unpack(jdcsuite.compress(photo(150, 170))).side.request.noise / 16
    assert a["noise"] == expected and a["estimator"] == "network"
    assert a["white"] == pytest.approx(0.04 * 255, rel=0.1)
    status, out, _ = jdc("noise", picture)
    assert status == 0 and "network" in out and f"{a['white']:.1f}" in out


@pytest.mark.parametrize("sigma", [0, 3, 10, 30])
def test_the_package_estimates_white_noise(sigma):
    for scene in (data.coffee(), data.rocket(), data.astronaut()):
        noisy = GaussianNoise(sigma=sigma).fixed(scene[:384, :384], seed=0) if sigma else to_tensor(scene[:384, :384])
        request = compression.load(weights.SHIPPED).header(to_bytes(noisy)).side.request
        assert request.noise / 16 == pytest.approx(sigma, rel=0.12, abs=1.5)


def test_the_package_estimates_the_noise_of_developed_photographs():
    """The estimate of the first weights was a tenth of it on cc15."""
    clean, draw = to_tensor(data.coffee()[:384, :384]).expand(8, -1, -1, -1), Draw.whole(8, seed=0)
    noise = camera_noise(
        clean, level=torch.full((8, 1, 1, 1), 8 / 255), normal=draw.normal(*clean.shape[1:]),
        uniform=draw.uniform(PARAMETERS),
    )  # fmt: skip
    halved = torch.arange(8).reshape(8, 1, 1, 1) % 2 == 0
    noisy = jpeg((clean + noise).clamp(0, 1), step=torch.full((8, 1, 1, 1), 4.0), halved=halved)
    level = 255 * (noisy - clean).square().mean((1, 2, 3)).sqrt()
    requests = [compression.load(weights.SHIPPED).header(to_bytes(image)).side.request for image in noisy]
    ratio = torch.tensor([request.noise / 16 for request in requests]) / level
    assert ratio.median() == pytest.approx(1, abs=0.3) and ratio.max() < 1.6


def test_noise_without_a_network_is_the_classical_estimate(jdc, none_shipped, tmp_path):
    Image.fromarray(white(10)).save(tmp_path / "a.png")
    (tmp_path / "bad.png").write_text("x")
    status, out, err = jdc("noise", tmp_path, "--json")
    (estimate,) = json.loads(out)
    assert estimate["estimator"] == "classical" and estimate["noise"] == pytest.approx(10, rel=0.15)
    assert status == 1 and "bad.png" in sentence(err)
    assert jdc("noise", tmp_path / "none.png")[0] == 2


# -- info -----------------------------------------------------------------------------------------------------------


def test_info_shows_the_settings_of_a_file(jdc, shipped, tmp_path):
    for strength, denoised in ((0, "no"), (0.3, "partly"), (1, "yes")):
        (tmp_path / "x.jdc").write_bytes(jdcsuite.compress(photo(8, 8), quality=70.5, sigma=4.5, strength=strength))
        (about,) = json.loads(jdc("info", tmp_path / "x.jdc", "--json")[1])
        settings = [about[name] for name in ("version", "quality", "noise", "strength", "denoised")]
        assert settings == [3, 70.5, 4.5, strength, denoised]
    out = jdc("info", tmp_path / "x.jdc")[1]
    assert "70.5" in out and "denoised" in out
    saved(tmp_path / "run")
    (tmp_path / "y.jdc").write_bytes(jdcsuite.compress(photo(8, 8), tmp_path / "run"))
    (about,) = json.loads(jdc("info", tmp_path / "y.jdc", "--json")[1])
    assert about["version"] == 2 and about["quality"] is None and "denoised" not in jdc("info", tmp_path / "y.jdc")[1]


def test_info_shows_the_properties_of_weights(jdc, shipped, tmp_path):
    (about,) = json.loads(jdc("info", "--json")[1])
    assert [about[name] for name in ("method", "licence", "data", "samples")] == ["flagship", "MIT", "drawings", 1234]
    assert about["model_id"] == compression.load().model_id.hex() and about["bytes"] == shipped.stat().st_size
    assert "0 to 100" in about["rates"] and "55" in about["noise"]
    for words in ([shipped], ["--weights", shipped]):
        assert json.loads(jdc("info", *words, "--json")[1]) == [about]
    saved(tmp_path / "run")
    status, out, _ = jdc("info", "--weights", tmp_path / "run")
    assert status == 0 and out.count("not stated") == 4 and "one" in out
    status, _, err = jdc("info", "--weights", tmp_path)
    assert status == 1 and "no weights" in sentence(err)


def test_export_states_a_licence(jdc, shipped, tmp_path):
    words = ["export", shipped, "-o", tmp_path / "w.safetensors", "--licence", "CC0", "--data", "photographs"]
    assert jdc(*words)[0] == 0
    about = weights.read_about(tmp_path / "w.safetensors")
    assert about == {**ABOUT, "licence": "CC0", "data": "photographs"}


# -- other uses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("flagship@", "flagship@ names no qualities: give numbers"),
        ("flagship+avif", "flagship is a codec, not a denoiser"),
        ("flagship@30+avif", "flagship@30 is a codec, not a denoiser"),
    ],
)
def test_an_error_in_evaluating_the_flagship_is_one_sentence(jdc, picture, tmp_path, monkeypatch, word, message):
    for column in ("curve", "lmbda", "seed", "budget"):
        monkeypatch.setitem(ABOUT, column, None)
    flagship(tmp_path / "flagship.safetensors")
    monkeypatch.setattr(weights, "SHIPPED", tmp_path / "flagship.safetensors")
    status, _, err = jdc("evaluate", word, "--data", tmp_path, "--sigma", 1, "--out", tmp_path / "out.csv")
    assert status == 2 and message in sentence(err)


@pytest.mark.parametrize("level", [32.0, 1e38])  # in units of 16 grey levels: 512 of them, and overflow in float32
def test_noise_estimates_are_limited_to_the_range_of_images_or_refused(tmp_path, level):
    model = flagship(tmp_path / "flagship.safetensors")
    with torch.no_grad():
        last = model.noise_level.net[-1]
        last.weight.zero_()
        last.bias.copy_(torch.tensor([level, 0.0]))
    model.update()
    if level > 1e9:
        with pytest.raises(UserError, match="noise levels are not finite"):
            model.header(photo(150, 170))
        return
    for tile in (0, 64):
        assert model.header(photo(150, 170), tile=tile).side.request.noise / 16 == pytest.approx(255)
    assert unpack(model.compress(photo(20, 30))).side.request.noise == 16 * 255


def test_a_request_outside_the_format_names_the_limits(shipped):
    forged = bytearray(jdcsuite.compress(photo(20, 30)))
    forged[35] = 101
    with pytest.raises(CorruptFile, match="strength 101 is outside the format's limits: 0 to 1000, 65535 and 100"):
        jdcsuite.decompress(_sealed(bytes(forged)))


def test_a_missing_device_is_one_sentence(stored, monkeypatch):
    def without_driver(*args, **kwargs):
        raise RuntimeError("Found no driver. Please get one from http://example.org/index.aspx\nmore")

    monkeypatch.setattr(torch, "empty", without_driver)
    with pytest.raises(UserError, match=r"cannot be used here \(Found no driver\): give cpu$"):
        weights.load(stored, device="cuda")
