"""BPG and VTM as programs on the PATH. The programs here are stand-ins that code with libpng and record their
arguments; none of BPG's or VTM's own code runs, so no test says anything about their quality or speed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_cli import folder, jdc  # noqa: F401

from jdcsuite.baselines import external
from jdcsuite.baselines.external import BPG, VTM, External, from_yuv10, to_yuv10
from jdcsuite.baselines.standards import ladder, standard
from jdcsuite.types import Compressor, NotInstalled, UserError

RECORD = """#!{python}
import json, os, sys
import numpy as np
from PIL import Image
args = sys.argv[1:]
if not args:
    print("stand-in for {name}, Version [{version}]")
    sys.exit(1)
with open({log!r}, "a") as log:
    print(json.dumps([os.path.basename(sys.argv[0]), os.getcwd(), args]), file=log)
if "{name}" in os.environ.get("STAND_IN_FAILS", ""):
    print("first line\\nout of luck", file=sys.stderr)
    sys.exit(3)
if "{name}" in os.environ.get("STAND_IN_HANGS", ""):
    import time
    time.sleep(60)
value = lambda option: args[args.index(option) + 1]
"""
CODE = {
    "bpgenc": "Image.open(args[-1]).save(value('-o'), 'PNG')",
    "bpgdec": "Image.open(args[-1]).save(value('-o'), 'PNG')",
    "EncoderApp": """
planes = np.fromfile(value("-i"), "<u2").reshape(-1, int(value("-wdt")))
assert len(planes) == 3 * int(value("-hgt"))
Image.fromarray(planes).save(value("-b"), "PNG")""",
    "DecoderApp": "np.asarray(Image.open(value('-b'))).astype('<u2').tofile(value('-o'))",
}


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins alone on the PATH; what they record."""
    programs, log = tmp_path / "bin", tmp_path / "log"
    programs.mkdir()
    for name, code in CODE.items():
        head = RECORD.format(python=sys.executable, name=name, version="9.8", log=str(log))
        (programs / name).write_text(f"{head}{code}\n")
        (programs / name).chmod(0o755)
    (tmp_path / "intra.cfg").write_text("# stand-in\n")
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv(external.VTM_CONFIG, str(tmp_path / "intra.cfg"))
    external._version.cache_clear()
    return log


def image(height: int, width: int) -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("codec", ["bpg", "vtm"])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (16, 33)])
def test_an_image_passes_through_the_programs(log: Path, codec: str, size: tuple[int, int]) -> None:
    coder, x = standard(codec, 22.0), image(*size)
    assert isinstance(coder, Compressor)
    data = coder.compress(x)
    assert torch.equal(coder.decompress(data), x), "the stand-ins lose nothing"
    (encoder, first, arguments), (_, second, _) = map(json.loads, log.read_text().splitlines())
    assert first != second and not Path(first).exists() and not Path(second).exists(), "folders of their own, removed"
    assert arguments[arguments.index("-q") + 1] == "22"
    expected = {"bpg": ["-f", "444"], "vtm": ["-c", os.environ[external.VTM_CONFIG]]}[codec]
    assert arguments[arguments.index(expected[0]) + 1] == expected[1]
    assert coder.version == f"{codec} {encoder} 9.8" and coder.name == codec


def test_ten_bits_hold_every_colour() -> None:
    levels = np.arange(256, dtype=np.uint8)
    for red in (0, 1, 77, 254, 255):
        rgb = np.stack(np.broadcast_arrays(np.uint8(red), levels[:, None], levels), -1)
        assert np.array_equal(from_yuv10(to_yuv10(rgb)), rgb)


@pytest.mark.parametrize("codec", [BPG, VTM])
def test_what_is_not_installed_is_one_sentence(
    codec: type[External], log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if codec is VTM:
        monkeypatch.delenv(external.VTM_CONFIG)
        with pytest.raises(NotInstalled, match="set JDCSUITE_VTM_CONFIG"):
            codec(quality=30)
    (tmp_path / "bin" / codec.decoders[0]).unlink()
    with pytest.raises(NotInstalled, match=f"needs the program {codec.decoders[0]}, which is not on the PATH"):
        codec(quality=30)
    with pytest.raises(UserError, match=r"QP from 0 to .*lower is better.*not 30\.5"):
        codec(quality=30.5)


def test_failures_and_time_limits_are_one_sentence(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = image(4, 4)
    data = BPG(quality=30).compress(x)
    monkeypatch.setenv("STAND_IN_FAILS", "bpgdec")
    with pytest.raises(UserError, match="bpgdec failed on this image: out of luck"):
        BPG(quality=30).decompress(data)
    monkeypatch.setenv("STAND_IN_HANGS", "EncoderApp")
    with pytest.raises(UserError, match=r"EncoderApp did not end within 0\.5 s"):
        VTM(quality=30, limit=0.5).compress(x)
    with pytest.raises(UserError, match="no vtm image"):
        VTM(quality=30).decompress(b"abc")
    monkeypatch.delenv("STAND_IN_HANGS")
    with pytest.raises(UserError, match="no vtm image of the size that they state"):
        VTM(quality=30).decompress(VTM(quality=30).compress(x).replace(b"\x04\0\x04\0", b"\x05\0\x04\0", 1))


def test_ladders_ascend_in_quality() -> None:
    for name in ("bpg", "vtm"):
        qualities = ladder(name)
        assert len(qualities) >= 6 and qualities == sorted(qualities, reverse=True)
    assert ladder("flif") is None and ladder("jpeg")[0] == 1


def test_evaluate_takes_them_or_says_what_is_missing(jdc, folder: Path, log: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "out.csv"
    words = ["evaluate", "bpg@40,30", "nlm+vtm@30", "png", "--data", folder, "--sigma", 10]
    assert jdc(*words, "--out", out)[0] == 0
    rows = pd.read_csv(out)
    assert rows["method"].value_counts().to_dict() == {"noisy + bpg": 4, "noisy + png": 2, "nlm + vtm": 2}
    assert set(rows["codec_version"][rows["method"] == "noisy + bpg"]) == {"bpg bpgenc 9.8"}
    (tmp_path / "bin" / "bpgenc").unlink()
    status, printed, err = jdc(*words, "--out", tmp_path / "without.csv")
    assert status == 0, printed + err
    assert "bpg@40,30 is left out: bpg needs the program bpgenc, which is not on the PATH" in printed
    assert set(pd.read_csv(tmp_path / "without.csv")["method"]) == {"noisy + png", "nlm + vtm"}
    status, _, err = jdc("evaluate", "bpg", "--data", folder, "--sigma", 10, "--out", tmp_path / "none.csv")
    assert status == 2 and "no codec is left: bpg needs the program bpgenc" in err
