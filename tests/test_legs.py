"""experiments/flagship/leg.py: a leg continues the weights of the one before with new samples, and appends a row."""

from __future__ import annotations

import csv
import importlib
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from jdcsuite.artifacts import weights
from jdcsuite.models.flagship import Flagship
from jdcsuite.types import Pair

LEG = Path(__file__).parents[1] / "experiments" / "flagship" / "leg.py"
SMALL = ("model.widths=[8,8]", "model.blocks=[1,1]", "model.denoiser=[8,1]", "model.post_filter=[8,1]",
         "model.num_latents=24", "model.prior_width=8", "model.embedding=8", "data.batch=2", "data.crop=64",
         "data.workers=0", "trainer.log_every=1")  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name, count in {"photos": 4, "clean": 2, "pairs/clean": 2, "pairs/noisy": 2}.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            image = random.integers(0, 256, (8, 9, 3), dtype=np.uint8)
            Image.fromarray(image).resize((72, 64 + i)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    sys.path.insert(0, str(LEG.parent))
    yield importlib.import_module("leg")
    sys.path.remove(str(LEG.parent))


def words(data: Path, out: Path, minutes: float, *more: str, test: tuple[str, ...] = ("clean", "pairs")) -> list[str]:
    """The command line of a leg in the folder ``out``, which goes on from the one before if there was one; 1.2 seconds
    are enough for some steps."""
    more = more if (out / "w.safetensors").exists() else ("--weights=none", *more)
    places = {"weights": "w.safetensors", "out": "w.safetensors", "legs": "legs.csv", "results": "results.csv"}
    paths = [f"--{name}={out / file}" for name, file in places.items()]
    options = [str(minutes), "--data", str(data), "--train", "photos", "--test", *test, "--sigma", "10"]
    return [*options, *paths, *more, "--set", *SMALL]


def test_legs_follow_each_other(data: Path, tmp_path: Path, script: ModuleType) -> None:
    command = [sys.executable, LEG, *words(data, tmp_path, 0.02)]
    for name in ("imagecodecs", "wandb"):  # not needed for training alone
        (tmp_path / f"{name}.py").write_text("raise ImportError('not here')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    first = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path})
    assert first.returncode == 0, first.stdout + first.stderr
    before = weights.read(tmp_path / "w.safetensors")
    script.main(words(data, tmp_path, 0.02, "--final"))
    after = weights.read(tmp_path / "w.safetensors")
    with (tmp_path / "legs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["leg"] for row in rows] == ["1", "2"] and [row["final"] for row in rows] == ["False", "True"]
    for row, (_, about, tensors) in zip(rows, (before, after), strict=True):
        assert int(row["steps"]) > 0 and int(row["samples"]) == about["samples"]
        assert float(row["loss"]) > 0 and {"clean sigma 10", "pairs own noise"} <= row.keys()
        parameters = {n: t for n, t in tensors.items() if not n.startswith("tables.")}
        assert {t.dtype for n, t in parameters.items() if n.endswith("weight")} == {torch.bfloat16}
    assert int(rows[1]["samples"]) == before[1]["samples"] + 2 * int(rows[1]["steps"]), "no sample is used twice"
    assert after[1]["legs"] == 2 and after[1]["train_scenes"] == [f"photos/{i}" for i in range(4)]
    assert any(not torch.equal(before[2][name], after[2][name]) for name in before[2])
    with (tmp_path / "results.csv").open() as file:
        grid = list(csv.DictReader(file))
    assert {(row["dataset"], row["sigma"]) for row in grid} == {("clean", "10.00000"), ("pairs", "")}
    assert len(grid) == 12 and all(0 < float(row["bpp"]) < 50 and 5 < float(row["psnr"]) < 60 for row in grid)
    weights.load(tmp_path / "w.safetensors")


def test_a_leg_on_two_devices_is_one_leg(data: Path, tmp_path: Path) -> None:
    command = [sys.executable, LEG, *words(data, tmp_path, 0.05, test=("clean",)), "trainer.devices=2", "data.batch=4"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count(" steps in ") == ended.stdout.count("leg: 1") == 1, "the first process alone reports"
    with (tmp_path / "legs.csv").open() as file:
        (row,) = csv.DictReader(file)
    about = weights.read(tmp_path / "w.safetensors")[1]
    assert int(row["steps"]) > 0 and about["samples"] == int(row["samples"]) == 4 * int(row["steps"])
    weights.load(tmp_path / "w.safetensors")


def test_weights_that_are_not_there_are_refused(data: Path, tmp_path: Path, script: ModuleType, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        script.main(words(data, tmp_path, 0.01, "--weights=mistyped.safetensors"))
    message = "there are no weights mistyped.safetensors: give those to go on from, or --weights none to start anew"
    assert caught.value.code == 2 and message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_frozen_parts_stay_as_they_are(data: Path, tmp_path: Path, script: ModuleType, capsys) -> None:
    script.main(words(data, tmp_path, 0.01, test=("clean",)))
    before = weights.read(tmp_path / "w.safetensors")[2]
    script.main(words(data, tmp_path, 0.02, "--frozen", "denoiser", "embed", test=("clean",)))
    after = weights.read(tmp_path / "w.safetensors")[2]
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert {"fine_a", "linear_s", "post_filter", "h_s"} <= changed and not changed & {"denoiser", "embed"}
    with pytest.raises(SystemExit) as caught:
        script.main(words(data, tmp_path, 0.01, "--frozen", "denoisr"))
    assert caught.value.code == 2
    assert "no part 'denoisr': choose from coarse_a, coarse_s," in capsys.readouterr().err


def test_a_frozen_denoiser_costs_no_backward_pass(script: ModuleType) -> None:
    net = Flagship(widths=[8, 8], blocks=[1, 1], num_latents=8, prior_width=8, embedding=8, denoiser=[8, 1]).train()
    for part in script.parts_of(net, ["denoiser", "embed"]):
        part.requires_grad_(False)
    output = net(torch.rand(1, 3, 64, 64))
    assert not output.denoised.requires_grad and output.x_hat.requires_grad


@pytest.mark.parametrize("part", ["noise_level", "denoiser", "prior", "post_filter"])
def test_a_part_is_trained_alone(part: str, data: Path, tmp_path: Path, script, monkeypatch) -> None:
    module, kept = importlib.import_module("part"), tmp_path / "w.safetensors"
    script.main(words(data, tmp_path, 0.01, test=("clean",)))
    before = weights.read(kept)
    module.main([part, "0.03", f"--data={data}", "--train=photos", f"--weights={kept}", "--set", *SMALL])
    after = weights.read(kept)
    changed = {name.split(".")[0] for name in before[2] if not torch.equal(before[2][name], after[2][name])}
    assert changed - {"tables"} == (set(module.PRIOR) if part == "prior" else {part})
    assert before[1] == after[1] and before[0] == after[0]
    weights.load(kept)


@pytest.mark.parametrize("part", ["denoiser", "post_filter"])
def test_a_part_that_the_network_lacks_is_refused(part: str, data: Path, tmp_path: Path, script, capsys) -> None:
    module, kept = importlib.import_module("part"), tmp_path / "w.safetensors"
    script.main(words(data, tmp_path, 0.01, test=("clean",)))
    with pytest.raises(SystemExit):
        module.main([part, "1", f"--data={data}", "--train=photos", f"--weights={kept}", "--set", *SMALL,
                     f"model.{part}=null"])  # fmt: skip
    assert f"part.py: this network has no {part}" in capsys.readouterr().err


def test_a_part_is_trained_at_the_given_rate(data: Path, tmp_path: Path, script, capsys) -> None:
    module, kept = importlib.import_module("part"), tmp_path / "w.safetensors"
    script.main(words(data, tmp_path, 0.01, test=("clean",)))
    before = weights.read(kept)[2]
    line = ["denoiser", "0.02", f"--data={data}", "--train=photos", f"--weights={kept}"]
    module.main([*line, "--rate=1e-30", "--set", *SMALL])
    after = weights.read(kept)[2]
    assert all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(SystemExit):
        module.main([*line, "--rate=0", "--set", *SMALL])
    assert "a learning rate of 0.0 trains nothing: give one above 0" in capsys.readouterr().err


def test_a_part_can_keep_a_share_of_what_it_was(data: Path, tmp_path: Path, script, capsys) -> None:
    module, kept = importlib.import_module("part"), tmp_path / "w.safetensors"
    script.main(words(data, tmp_path, 0.01, test=("clean",)))
    before = weights.read(kept)[2]
    line = ["denoiser", "0.02", f"--data={data}", "--train=photos", f"--weights={kept}"]
    module.main([*line, "--rate=0.1", "--keep=1", "--set", *SMALL])
    assert all(torch.equal(before[name], tensor) for name, tensor in weights.read(kept)[2].items())

    def trained(modules: list[nn.Module], *_: object, **__: object) -> None:
        for parameter in (p for part in modules for p in part.parameters()):
            parameter.data += 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "train", trained)
        module.main([*line, "--keep=0.25", "--set", *SMALL])
    after = weights.read(kept)[2]
    for name in (name for name in before if name.startswith("denoiser.")):
        torch.testing.assert_close(after[name].float(), before[name].float() + 0.75, atol=0.01, rtol=0.01)
    with pytest.raises(SystemExit):
        module.main([*line, "--keep=1.5", "--set", *SMALL])
    assert "1.5 is no share of the part: give 0 to 1" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["noise_level", "prior"])
def test_a_part_can_be_taken_from_other_weights(part: str, data: Path, tmp_path: Path, script, capsys) -> None:
    module = importlib.import_module("part")
    one, other, out = (tmp_path / name / "w.safetensors" for name in ("one", "other", "out"))
    for path, seed in ((one, "seed=1"), (other, "seed=2")):
        script.main([*words(data, path.parent, 0.01, test=("clean",)), seed])
    line = [part, "0", f"--data={data}", "--train=photos", f"--weights={one}", f"--out={out}", f"--like={other}"]
    module.main([*line, "--set", *SMALL])
    files = [weights.read(path)[2] for path in (one, other, out)]
    taken = module.PRIOR if part == "prior" else (part,)
    for name in files[0]:
        if not name.startswith("tables."):
            source = files[1] if name.split(".")[0] in taken else files[0]
            assert torch.equal(files[2][name], source[name]), name
    assert any(not torch.equal(a, files[1][name]) for name, a in files[0].items() if name.split(".")[0] in taken)
    with pytest.raises(SystemExit):
        module.main([*line, "--set", *SMALL, "model.noise_estimate=convolutions", "model.prior_width=16"])
    assert "of another shape: give weights of the same configuration" in capsys.readouterr().err


def test_what_is_coded_once_is_drawn_again(script) -> None:
    counter = iter(range(100))
    draw = importlib.import_module("part").drawn_again(lambda: next(counter), 3)
    drawn = [draw() for _ in range(40)]
    assert drawn[:3] == [0, 1, 2] and set(drawn[3:]) == {0, 1, 2} and next(counter) == 3


def test_a_part_can_start_anew(data: Path, tmp_path: Path, script, capsys) -> None:
    module, old, new = importlib.import_module("part"), tmp_path / "w.safetensors", tmp_path / "new.safetensors"
    script.main(words(data, tmp_path, 0.02, test=("clean",)))
    line = ["prior", "0", f"--data={data}", "--train=photos", f"--weights={old}", f"--out={new}"]
    module.main([*line, "--anew", "h_a", "prior_z", "--set", *SMALL])
    before, after = weights.read(old)[2], weights.read(new)[2]
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert {"h_a", "prior_z"} <= changed <= {"h_a", "prior_z", "tables"}
    with pytest.raises(SystemExit):
        module.main([*line, "--anew", "ha", "--set", *SMALL])
    assert "part.py: this network has no part 'ha': choose from " in capsys.readouterr().err


def test_a_part_takes_from_the_weights_what_fits(data: Path, tmp_path: Path, script) -> None:
    module, old, new = importlib.import_module("part"), tmp_path / "w.safetensors", tmp_path / "new.safetensors"
    smaller = ["model.denoiser=null", "model.post_filter=null", "model.magnitudes=false"]
    script.main([*words(data, tmp_path, 0.01, test=("clean",)), *smaller])
    module.main(["prior", "0", f"--data={data}", "--train=photos", f"--weights={old}", f"--out={new}", "--set", *SMALL])
    (_, _, before), (_, _, after) = weights.read(old), weights.read(new)
    started = {name for name in after if name not in before}
    assert started and {name.split(".")[0] for name in started} == {"denoiser", "post_filter"}
    for name, tensor in after.items():
        if name in ("h_a.0.weight", "spatial_prior.0.weight"):
            inputs = before[name].shape[1]
            assert torch.equal(tensor[:, :inputs], before[name]) and not tensor[:, inputs:].any()
        elif name in before:
            assert torch.equal(tensor, before[name]), name


def test_the_sensitivity_of_an_orthonormal_transform_is_one(script) -> None:
    """And of one whose decoder is linear but twice as steep in one channel, four there."""
    module = importlib.import_module("part")
    net = Flagship(widths=[4, 4], blocks=[0, 0], num_latents=32, prior_width=8, embedding=4).eval()
    with torch.no_grad():
        net.leave[0].weight.zero_()  # the DCT alone
        net.linear_s[0].module.weight[:, 5] *= 2
    torch.manual_seed(0)
    clean = torch.rand(8, 3, 192, 192)
    one = torch.ones(8)
    pair = Pair(noisy=clean, clean=clean, sigma=10 * one, settings={"quality": 60 * one, "strength": one})
    found = module.sensitivity(net, pair)
    expected = torch.ones(32)
    expected[5] = 4
    # mean of 1152 squared sums of random signs, each of relative standard deviation 1.4
    torch.testing.assert_close(found / expected, torch.ones(32), atol=0.2, rtol=0)


@torch.no_grad()
def test_what_is_diagnosed_of_a_transform_without_networks_is_known(data: Path, script) -> None:
    module = importlib.import_module("diagnose")
    net = Flagship(widths=[4, 4], blocks=[1, 1], num_latents=768, prior_width=8, embedding=8,
                   denoiser=[4, 1], post_filter=[4, 1]).eval()  # fmt: skip
    for last in (
        net.latents.module,
        net.leave[0],
        net.denoiser.leave[0],
        net.post_filter.leave[0],
    ):  # a lossless transform remains
        last.weight.zero_()  # a lossless transform remains
    for sigma, lossless in ((0.0, 60.0), (10.0, 28.2)):
        found = module.diagnosed(net, data / "photos", sigma=sigma, limit=2)
        assert found["psnr"] == pytest.approx(found["psnr linear alone"]) and found["psnr kept"] > 60
        assert found["psnr"] > 60 if sigma == 0 else found["psnr"] == pytest.approx(lossless, abs=0.4)
        assert found["psnr denoised"] == pytest.approx(found["psnr"]) or sigma == 0
        assert 0 < found["bpp static"] < found["bpp"], "an untrained prior needs more than static tables"
    assert module.entropy(np.array([5, 5, -1, -1, 5, 5, 0, 0])) == pytest.approx(12.0)


def refused(script: ModuleType, arguments: list[str], capsys: pytest.CaptureFixture) -> str:
    with pytest.raises(SystemExit) as ended:
        script.main(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_a_leg_that_would_train_on_a_test_image_is_refused(data: Path, tmp_path: Path, script, capsys) -> None:
    (data / "copies").mkdir()
    Image.open(data / "photos" / "0.png").save(data / "copies" / "renamed.png", compress_level=1)
    assert "cannot be both" in refused(script, words(data, tmp_path, 0.02, test=("copies",)), capsys)
    assert not (tmp_path / "w.safetensors").exists() and not (tmp_path / "legs.csv").exists()


@pytest.mark.parametrize(
    ("minutes", "test", "message"), [(0, ("clean",), "above 0"), (0.02, ("nothing",), "holds no folder nothing")]
)
def test_a_leg_with_wrong_arguments_is_refused(
    data: Path, tmp_path: Path, minutes, test, message, script, capsys
) -> None:
    assert message in refused(script, words(data, tmp_path, minutes, test=test), capsys)


def clock_trainer(*, processes: int = 1, told: float | None = None) -> SimpleNamespace:
    strategy = SimpleNamespace(broadcast=lambda own: own if told is None else told)
    return SimpleNamespace(
        world_size=processes, global_step=1, log_every_n_steps=10, strategy=strategy, should_stop=False
    )


def test_the_learning_rate_decreases_with_time_in_a_final_leg_only(script, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 50.0
    monkeypatch.setattr(script.time, "monotonic", lambda: now)
    flat, final = script.Clock(100, final=False), script.Clock(100, final=True)
    assert flat(0) == final(0) == 0.01 and final(1) == 0.02
    for gone, expected in {0: 1.0, 74: 1.0, 75: 1.0, 80: 0.8, 87.5: 0.5, 100: 0.0, 110: 0.0}.items():
        now, trainer = 50.0 + gone, clock_trainer()
        for clock in (flat, final):
            clock.on_train_batch_end(trainer, None, None, None, 0)
        assert (flat(1000), final(1000)) == (1.0, pytest.approx(expected))
        assert trainer.should_stop == (gone >= 100), "the rate is 0 where training ends"


def test_several_processes_read_the_clock_of_the_first(script, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, trainer = script.Clock(100, final=True), clock_trainer(processes=2, told=80.0)
    clock.on_train_batch_end(trainer, None, None, None, 0)
    assert clock(1000) == 1.0, "at steps that all know"
    trainer.global_step = 20
    clock.on_train_batch_end(trainer, None, None, None, 0)
    assert clock(1000) == pytest.approx(0.8) and not trainer.should_stop


def test_a_leg_that_a_signal_ends_keeps_its_weights(data: Path, tmp_path: Path, script, monkeypatch, capsys) -> None:
    def at_step_3(clock: object, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(script.Clock, "on_train_batch_end", at_step_3)
    with pytest.raises(SystemExit) as ended:
        script.main(words(data, tmp_path, 5, test=("clean",)))
    assert ended.value.code == 128 + signal.SIGTERM
    assert weights.read(tmp_path / "w.safetensors")[1]["samples"] == 3 * 2
    said = capsys.readouterr().err
    assert "stopped by SIGTERM after step 3; " in said and "the next leg goes on from them" in said
    assert not (tmp_path / "legs.csv").exists()


def test_what_is_not_judged_in_time_is_left_out_and_told(
    data: Path, tmp_path: Path, script, monkeypatch, capsys
) -> None:
    grid = importlib.import_module("grid")
    net = Flagship(widths=[4, 4], blocks=[0, 0], num_latents=8, prior_width=8, embedding=4)
    ticks = iter([0.0, 1.0, 1.0, 1.0, 9.0])
    monkeypatch.setattr(grid.time, "monotonic", lambda: next(ticks))
    rows = grid.grid(net, [data / "clean"], sigmas=[10.0, 5.0], limit=None, seconds=5.0)
    assert set(rows["sigma"]) == {10.0} and set(rows["pictures"]) == {2}, "no mean over some of the pictures"
    monkeypatch.undo()
    script.main([*words(data, tmp_path, 0.01, "--judge-minutes=0", test=("clean",))])
    assert "1 of 1 sets and noise levels were not judged within 0 minutes" in capsys.readouterr().out


def test_a_batch_that_is_not_finite_does_not_spoil_a_part(script) -> None:
    module, part = importlib.import_module("part"), nn.Linear(3, 1)
    values = iter([1.0, math.nan, 1.0])

    def loss() -> torch.Tensor:
        return next(values, 1.0) * part(torch.ones(1, 3)).sum()

    config = {"task": {"optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "fused": True},
                       "normalize": True}, "trainer": {"precision": "32-true"}}  # fmt: skip
    before = part.weight.clone()
    module.train([part], 1e-3, loss, minutes=0.002, config=config)
    assert next(values, None) is None and torch.isfinite(part.weight).all() and not torch.equal(part.weight, before)


def test_clean_images_of_test_pairs_are_refused_too(data: Path, tmp_path: Path, script, capsys) -> None:
    shutil.copytree(data / "photos", data / "with_copy", dirs_exist_ok=True)
    shutil.copy(data / "pairs" / "clean" / "1.png", data / "with_copy" / "renamed.png")
    line = [*words(data, tmp_path, 0.02, test=("pairs",))]
    line[line.index("photos")] = "with_copy"
    assert "cannot be both" in refused(script, line, capsys)
