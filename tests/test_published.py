"""Published weights: converted files behave as the published networks, and other files are one sentence."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from test_cli import jdc  # noqa: F401
from test_lcfdnet import published as lcfdnet_shapes
from test_restormer import published_shapes

from jdcsuite.artifacts import published, weights
from jdcsuite.artifacts.published import convert
from jdcsuite.models.frequency_net import SCALE
from jdcsuite.models.lcfdnet import LCFDNet
from jdcsuite.models.restormer import Restormer
from jdcsuite.types import UserError


def filled(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        name: torch.tensor(7) if name.endswith("num_batches_tracked") else 0.1 * torch.rand(shape) + 0.01
        for name, shape in shapes.items()
    }


def test_restormers_file_becomes_a_denoiser(jdc, tmp_path: Path) -> None:  # noqa: F811
    theirs = filled(published_shapes())
    torch.save({"params": theirs}, tmp_path / "blind.pth")
    out = tmp_path / "restormer.safetensors"
    assert jdc("convert", "restormer", tmp_path / "blind.pth", "-o", out)[0] == 0
    model = weights.load(out)
    assert isinstance(model, Restormer)
    assert torch.equal(model.encoder[3][7].gate.spread.weight, theirs["latent.7.ffn.dwconv.weight"])
    assert torch.equal(model.merge[1].weight, theirs["reduce_chan_level3.weight"])
    about = weights.read_about(out)
    assert (about["method"], about["budget"], about["run"]) == ("restormer", "published", "restormer-blind")
    status, _, err = jdc("convert", "restormer", tmp_path / "blind.pth", "-o", out)
    assert status == 2 and "exists: give another name" in err


def test_lcfdnets_three_files_become_a_codec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = filled(lcfdnet_shapes())
    files = []
    for plane in "YUV":
        files.append(tmp_path / f"network_{plane}_ckpt.pth")
        nets = {f"network_{plane}_{place}": {} for place in "dbc"}
        for name, tensor in theirs.items():
            net, _, rest = name.partition(".")
            if net in nets:
                nets[net][rest] = tensor
        torch.save(nets, files[-1])
    convert("lcfdnet", files, tmp_path / "l.safetensors")
    model = weights.load(tmp_path / "l.safetensors")
    assert isinstance(model, LCFDNet) and model.is_ready and model.exact
    net = model.nets["u_b"]
    assert torch.equal(net.high.first.weight, SCALE * theirs["network_U_b.enc_H.0.weight"])
    assert torch.equal(net.threshold[2].var, theirs["network_U_b.var_th_enc.9.running_var"])
    assert torch.equal(net.low.blocks[2][1].beta, theirs["network_U_b.enc_L.5.bn2.bias"])
    with pytest.raises(UserError, match="3 files, not 1: give network_Y_ckpt"):
        convert("lcfdnet", files[:1], tmp_path / "m.safetensors")
    with pytest.raises(UserError, match="holds other tensors than lcfdnet's"):
        convert("lcfdnet", [files[0], files[0], files[1]], tmp_path / "m.safetensors")


class Evil:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("touched"),))


def test_other_files_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    theirs = {name: torch.zeros(shape) for name, shape in published_shapes().items()}
    cases = {
        "evil.pth": pickle.dumps({"params": Evil()}),
        "text.pth": b"no weights",
        "empty.pth": b"",
    }
    for name, data in cases.items():
        Path(name).write_bytes(data)
    torch.save({"params": theirs | {"encoder_level1.0.norm1.body.bias": torch.zeros(48)}}, "deraining.pth")
    torch.save({"params": {n: t for n, t in theirs.items() if n != "output.weight"}}, "short.pth")
    torch.save({"params": theirs | {"output.weight": torch.full((3, 96, 3, 3), torch.nan)}}, "nan.pth")
    for name, message in {
        "evil.pth": "holds no plain PyTorch weights", "text.pth": "holds no plain", "empty.pth": "holds no plain",
        "missing.pth": "cannot be read", "deraining.pth": "other tensors than restormer's",
        "short.pth": "other tensors", "nan.pth": "not finite",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=message) as refused:
            convert("restormer", [Path(name)], Path("out.safetensors"))
        assert "\n" not in str(refused.value)
    assert not Path("touched").exists() and not Path("out.safetensors").exists()
    with pytest.raises(UserError, match="method=unet is unknown: choose restormer or lcfdnet"):
        convert("unet", [Path("text.pth")], Path("out.safetensors"))
    assert set(published.METHODS) == {"restormer", "lcfdnet"}
