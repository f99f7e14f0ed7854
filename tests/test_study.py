"""Planning, needs, run folders, resuming and error messages: the whole training command, run in this process."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import jdcsuite
from jdcsuite import __main__ as entry
from jdcsuite.artifacts import environment, weights
from jdcsuite.artifacts import folder as run_folder
from jdcsuite.cli.app import app
from jdcsuite.data import provenance
from jdcsuite.data.datamodule import DataModule
from jdcsuite.imaging import atomic
from jdcsuite.judging import results
from jdcsuite.reports import crops, report
from jdcsuite.study import composition, identity, plan, rate_search, reporting, sweep
from jdcsuite.study.launch.worker import attempt
from jdcsuite.training import job as training
from jdcsuite.training import loggers
from jdcsuite.types import UserError

CONF = Path(entry.CONF)
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
UNDERTRAINED = ("restormer", "lcfdnet")  # named so at budgets below the paper's
REAL_NOISE = (
    *("codec", "jdc_cn", "jdc_cn8", "jdc_cn8_ms_ssim", "jdc_n", "jdc_ud", "jdc_ud_whole"),
    *("testolina", "testolina_range", "unet"),
)
TINY = (
    *("width=0.04", "data.crop=64", "data.val_crop=64", "data.batch=2", "data.workers=0", "data.limit=1"),
    *(
        "logger=none",
        "trainer.progress=false",
        "report.standards.avif=null",
        "report.standards.jpegxl=[3]",
        "report.beside=[]",
    ),
)


class Command:
    """`python -m jdcsuite ...` in this process: exit status, output and errors."""

    def __init__(self, capfd: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.capfd, self.folder, self.monkeypatch = capfd, folder, monkeypatch

    def __call__(self, *words: str) -> tuple[int, str, str]:
        self.monkeypatch.setattr(sys, "argv", ["jdcsuite", *words, f"runs={self.folder}", "name=t"])
        GlobalHydra.instance().clear()
        self.capfd.readouterr()
        status = 0
        try:
            entry.main()
        except SystemExit as end:
            status = int(end.code or 0)
        said = self.capfd.readouterr()
        return status, said.out, said.err

    def runs(self, method: str = "*") -> list[Path]:
        return sorted(self.folder.glob(f"t/{method}-*"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder: smooth random photographs in `train` and `test`."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for name, count in (("train", 4), ("test", 2)):
        (root / name).mkdir()
        for i in range(count):
            coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
            coarse.resize((96, 80), Image.Resampling.BICUBIC).save(root / name / f"{i}.png")
    for name, count in (("pairs", 4), ("taught", 4), ("unseen", 1)):
        for i in range(count):
            coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
            clean = np.asarray(coarse.resize((180, 180), Image.Resampling.BICUBIC))
            noisy = (clean + random.normal(0, 5, clean.shape)).round().clip(0, 255).astype(np.uint8)
            for kind, image in (("noisy", noisy), ("clean", clean)):
                (root / name / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(root / name / kind / f"{i}.png")
    teacher = provenance.Teacher(name="nlm", id="none", train_scenes=[])
    (root / "taught" / provenance.FILE).write_bytes(provenance.Predenoised(teacher=teacher).dump())
    return root


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(capfd, tmp_path / "runs", monkeypatch)


def data(pictures: Path, experiment: str = "fllic") -> tuple[str, ...]:
    if experiment in REAL_NOISE:
        test = "data.test=[{folder: unseen, name: test}]"
        if experiment == "jdc_ud_whole":
            return (f"data.root={pictures}", "data.train=[taught]", test, "data.cell=176")
        crop = (
            ("data.crop=176", "data.val_crop=176", "data.clean=null")
            if "ms_ssim" in experiment or experiment == "jdc_ud"
            else ("data.clean=train",)
        )
        return (f"data.root={pictures}", "data.train=[pairs]", test, "data.cell=176", *crop)
    return (f"data.root={pictures}", "data.train=train", "data.test=[test]")


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_trains_a_step_and_is_tested(command: Command, pictures: Path, experiment: str) -> None:
    status, out, err = command(f"+experiment={experiment}", "trainer.max_steps=1", *TINY, *data(pictures, experiment))
    assert status == 0, out + err
    method = f"{experiment}_undertrained" if experiment in UNDERTRAINED else experiment
    (folder,) = command.runs(method)
    state = json.loads((folder / "run.json").read_text())
    assert state["finished"] and state["packages"]["torch"] == torch.__version__.split("+")[0]
    found = rows(folder)
    assert len(found) == (4 if experiment == "flagship" else 1), "one network, tested at four qualities"
    row = found[len(found) // 2]
    assert row["method"] == method and row["dataset"] == "test" and row["budget"] == "demo"
    about = weights.read(folder / "weights.safetensors")[1]
    assert about["train_set"] == row["train_set"], "a pupil's guard reads it"
    if experiment == "unet":
        scenes = {f"pairs/{i}" for i in range(4)} | {f"train/{i}" for i in range(4)}
        assert set(about["train_scenes"]) == scenes, "those that chose a checkpoint, and the clean pictures, too"
    if experiment in REAL_NOISE:
        kept = "" if experiment == "jdc_ud" else row["crops"]  # it chooses batch by batch, so nobody has counted
        assert int(row["crops"]) > 0 and row["crops_kept"] == kept
    saw = {"jdc_ud": "4 of 4", "jdc_ud_whole": "0 of 4"}.get(experiment, "")
    assert row["teacher_saw"] == saw and bool(row["teacher"]) == bool(saw)
    if experiment == "clean_entropy":
        assert np.isfinite([float(row[c]) for c in ("h_noisy", "h_clean", "h_hat", "h_linear", "h_analytic")]).all()
        return
    if experiment not in ("unet", "restormer"):  # a denoiser has no rate
        payload, header, bpp = (float(row[c]) for c in ("bpp_payload", "bpp_header", "bpp"))
        assert payload + header == pytest.approx(bpp)
        side = "bpp_index" if row["bpp_index"] else "bpp_z"
        # a lossless coder has neither part
        assert experiment == "lcfdnet" or float(row["bpp_y"]) + float(row[side]) == pytest.approx(payload)
    noisy = np.asarray(Image.open(folder / "pictures" / f"test_{Path(row['image']).stem}_noisy.png"), float)
    clean = np.asarray(Image.open(folder / "pictures" / f"test_{Path(row['image']).stem}_clean.png"), float)
    decoded = np.asarray(Image.open(folder / "pictures" / f"test_{Path(row['image']).stem}_decoded.png"), float)
    for picture, column in ((noisy, "psnr_noisy"), (decoded, "psnr")):
        assert 10 * np.log10(255**2 / ((picture - clean) ** 2).mean()) == pytest.approx(float(row[column]), abs=1e-3)
    assert bool(row.get("h_hat")) == (experiment == "fllic_w")


def test_nested_folders_have_pictures_in_the_run_and_the_report(command: Command, pictures: Path) -> None:
    words = (f"data.root={pictures.parent}", f"data.train={pictures.name}/train", f"data.test=[{pictures.name}/test]")
    status, out, err = command("+experiment=fllic", "trainer.max_steps=1", *TINY, *words)
    assert status == 0, out + err
    (folder,) = command.runs("fllic")
    name = f"{pictures.name}_test_0_decoded.png"
    assert [path.name for path in (folder / "pictures").glob("*_decoded.png")] == [name]
    assert rows(folder)[0]["dataset"] == f"{pictures.name}/test"
    assert len(crops.example(results.read([folder], with_folder=True))) == 3, "noisy, decoded, clean"


def test_fllic_w_needs_the_entropy_net_which_needs_fllic(command: Command, pictures: Path) -> None:
    status, out, err = command(
        "+experiment=fllic_w", "-m", "lmbda=2048,512", "trainer.max_steps=1", *TINY, *data(pictures)
    )
    assert status == 0, out + err
    assert [len(command.runs(m)) for m in ("fllic", "clean_entropy", "fllic_w")] == [2, 2, 2]
    guided = next(f for f in command.runs("fllic_w") if "-l512-" in f.name)
    config = yaml.safe_load((guided / "config.yaml").read_text())
    assert "+experiment=fllic_w" in config["overrides"]
    assert config["model"]["guide"]["_target_"].endswith("CleanEntropy") and config["lossless_version"]
    entropy = load_file(next(f for f in command.runs("clean_entropy") if "-l512-" in f.name) / "weights.safetensors")
    own = load_file(guided / "weights.safetensors")
    assert all(torch.equal(own[f"guide.{name}"], tensor) for name, tensor in entropy.items())
    report = command.folder / "t" / "report"
    assert {"results.csv", "rd.png", "strip.png"} <= {p.name for p in report.iterdir()}
    with (report / "results.csv").open() as file:
        methods = {row["method"] for row in csv.DictReader(file)}
    assert methods == {"fllic_w", "noisy + jpegxl"}
    before = {f: (f / "weights.safetensors").stat().st_mtime_ns for f in command.runs()}
    status, out, _ = command(
        "+experiment=fllic_w", "-m", "lmbda=2048,512", "trainer.max_steps=1", *TINY, *data(pictures)
    )
    assert status == 0 and out.count("finished before") == 6
    assert before == {f: (f / "weights.safetensors").stat().st_mtime_ns for f in command.runs()}


def test_every_job_of_a_sweep_has_the_ladder_of_its_own_noise_and_distortion() -> None:
    """Hydra takes one for all: sigma 5 had that of sigma 10, and 1 - MS-SSIM that of the MSE."""

    def rungs(*words: str) -> list[str]:
        with hydra_config():
            jobs = composition.with_own_ladders([[*words, "lmbda=8192"], [*words, "lmbda=2048"]])
        assert all(job[: len(words)] == list(words) for job in jobs)
        return [job[-1].removeprefix("lmbda=") for job in jobs]

    assert rungs("+experiment=fllic_w", "sigma=5", "rungs=3") == ["16384", "4096", "1024"]
    assert rungs("+experiment=fllic_w", "sigma=10", "rungs=3") == ["8192", "2048", "512"]
    jdc = ["+sweep=jdc", "rungs=2"]
    assert rungs("+experiment=jdc_cn8", *jdc) == ["4096", "256"]
    assert rungs("+experiment=jdc_cn8_ms_ssim", *jdc) == ["64", "8"]
    with hydra_config():
        assert composition.with_own_ladders([["+experiment=flagship"]]) == [["+experiment=flagship"]]


def test_a_sweep_over_noise_levels_plans_both_ladders(command: Command) -> None:
    status, out, err = command(
        "+experiment=fllic", "budget=demo", "sigma=5,10", "rungs=2", "logger=none", "-m", "--plan"
    )
    assert status == 0 and [out.count(f"l{rung}") > 0 for rung in (4096, 1024, 2048, 512)] == [True] * 4, out + err
    status, out, err = command(
        "+experiment=fllic", "budget=demo", "sigma=5,10", "lmbda=7", "logger=none", "-m", "--plan"
    )
    assert status == 0 and "4096" not in out and out.count("l7") >= 2, out + err


def test_targets_resolve_their_own_chains(command: Command) -> None:
    def chain(*words: str) -> dict[str, str]:
        with hydra_config():
            job = plan.plan(["+experiment=fllic_w", *words])
        return {role: need.config["method"] for role, need in job.needs.items()}

    assert chain() == {"guide": "clean_entropy"} and chain("target=lossless") == {"guide": "clean_entropy"}
    assert chain("target=distortion") == {}
    with hydra_config():
        lossless = plan.plan(["+experiment=clean_entropy", "target=lossless"])
        codec = plan.plan(["+experiment=clean_entropy", "trainer.max_steps=7", "seed=3", "lr=0.5", "model.hidden=3"])
    assert lossless.needs == {}
    with hydra_config():
        rungs = [plan.plan(["+experiment=fllic_w", "target=lossless", f"lmbda={rung}"]) for rung in (2048, 512)]
    assert len({job.needs["guide"].folder for job in rungs}) == 1, "a lossless entropy has no rungs"
    assert len(plan.in_order(rungs)) == 3
    supervised = codec.needs["codec"].config
    said = (supervised["trainer"]["max_steps"], supervised["seed"], supervised["task"]["optimizer"]["lr"])
    assert said == (7, 3, 0.5), "changed keys are inherited"


def test_the_key_covers_what_decides_the_result_and_nothing_else(tmp_path: Path) -> None:
    def key(*words: str) -> str:
        with hydra_config():
            return plan.plan(["+experiment=fllic_w", *words]).key

    same = key()
    for word in ("data.workers=0", "runs=elsewhere", "logger=none", "trainer.accelerator=cpu", "rerun=true", "name=b",
                 f"data.cache={tmp_path}", "sigma=10.0", "trainer.devices=2"):  # fmt: skip
        assert key(word) == same, word
    for word in ("seed=1", "sigma=15", "lmbda=512", "trainer.max_steps=7", "data.batch=2", "rate_scale=0.7",
                 "model.start=random", "target=lossless", "data.noise.protocol=float",
                 "trainer.precision=bf16-mixed"):  # fmt: skip
        assert key(word) != same, word


def test_key_and_curve_identify_the_denoiser_that_made_the_targets(tmp_path: Path) -> None:
    def planned(id: str, *words: str) -> tuple[str, str]:
        teacher = provenance.Teacher(name="unet-1", id=id, train_scenes=[])
        (tmp_path / "taught").mkdir(exist_ok=True)
        (tmp_path / "taught" / provenance.FILE).write_bytes(provenance.Predenoised(teacher=teacher).dump())
        with hydra_config():
            job = plan.draft(["+experiment=jdc_ud_whole", f"data.root={tmp_path}", *words])
        return identity.key(job.config, data="", needs={}), job.config["curve"]

    for train in ("data.train=[taught]", "data.train=taught", "data.train=[{folder: taught, name: other}]"):
        one, two = planned("a" * 64, train), planned("b" * 64, train)
        assert one[0] != two[0] and one == planned("a" * 64, train)
        assert one[1] == "jdc_ud_whole teacher=" + "a" * 16
    assert planned("a" * 64, "data.train=[none]") == planned("b" * 64, "data.train=[none]")


def test_the_threshold_of_jdc_ud_is_on_its_targets() -> None:
    """min_ms_ssim= used to select crops by clean images, which the method must not use."""
    with hydra_config():
        config = plan.draft(["+experiment=jdc_ud", "min_ms_ssim=0.5"]).config
    assert config["data"]["min_ms_ssim"] is None and config["criterion"]["supervision"]["min_ms_ssim"] == 0.5


def test_curves_of_different_parts_of_a_training_folder_differ() -> None:
    """The column train_set holds only folder names, so curves of two parts of a folder used to be averaged."""
    with hydra_config():
        curves = {
            plan.draft(["+experiment=jdc_n", "data.root=nowhere", f"data.train={part}"]).config["curve"]
            for part in ("[a]", "[{folder: a, only: ['X*']}]", "[{folder: a, only: ['Y*']}]")
        }
    assert len(curves) == 3


def test_keys_of_a_need_are_set_in_its_configuration() -> None:
    words = ["+experiment=jdc_ud", "lmbda=512", "trainer.max_steps=3", "min_ms_ssim=0.5"]
    more = ["+needs.teacher.trainer.max_steps=12", "+needs.teacher.criterion.distance=ms_ssim"]
    with hydra_config():
        plain, told = plan.plan(words), plan.plan([*words, *more])
    assert plain.needs["teacher"].config["trainer"]["max_steps"] == told.config["trainer"]["max_steps"] == 3
    teacher = told.needs["teacher"].config
    assert (teacher["trainer"]["max_steps"], teacher["criterion"]["distance"]) == (12, "ms_ssim")
    assert teacher["method"] == "unet" and teacher["needs"] == {} and plain.key != told.key


def test_a_teacher_that_learned_a_test_scene_is_refused(command: Command, pictures: Path) -> None:
    tiny = ("trainer.max_steps=1", *TINY, *data(pictures, "jdc_ud"))
    assert command("+experiment=unet", *tiny)[0] == 0
    (teacher,) = command.runs("unet")

    def taught_by(*, train_scenes: list[str] | None) -> tuple[int, str]:
        path = teacher / "weights.safetensors"
        config, about, _ = weights.read(path)
        weights.save(weights.load(path), config, path, about={**about, "train_scenes": train_scenes})
        status, _, err = command("+experiment=jdc_ud", *tiny)
        return status, err

    status, err = taught_by(train_scenes=["unseen/0", "pairs/1"])
    said = "targets of jdc_ud were made by unet-"
    assert status == 1 and said in err and "learned from 1 scenes of data.test (as unseen/0)" in err
    assert taught_by(train_scenes=None)[0] == 0
    (pupil,) = command.runs("jdc_ud")
    assert rows(pupil)[0]["teacher_saw"] == "unknown"
    assert taught_by(train_scenes=["pairs/1", "pairs/2", "elsewhere/3"])[0] == 0
    assert rows(pupil)[0]["teacher_saw"] == "2 of 4"


@pytest.mark.parametrize("damaged", [False, True])
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(
    command: Command, pictures: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    words = ("+experiment=fllic", "trainer.max_steps=6", "trainer.val_every=3", "trainer.checkpoint_every=2", *TINY,
             "data.workers=1", *data(pictures))  # fmt: skip
    status, out, err = command(*words)
    assert status == 0, out + err
    (whole,) = command.runs()
    reference, metrics = load_file(whole / "weights.safetensors"), (whole / "metrics.csv").read_text()
    command.folder = command.folder.with_name("again")

    class Death(Exception):
        pass

    step = training.Task.training_step
    monkeypatch.setattr(training.Task, "training_step", lambda self, *a: die(self) or step(self, *a))

    def die(task: training.Task) -> None:
        if task.global_step == 5:  # a checkpoint was written after step 4: one step is lost and done again
            raise Death

    assert command(*words)[0] == 1
    (begun,) = command.runs()
    assert (begun / "checkpoints" / "last.ckpt").is_file() and not (begun / "weights.safetensors").exists()
    assert "Death" in (begun / "error.log").read_text()
    monkeypatch.setattr(training.Task, "training_step", step)
    last = begun / "checkpoints" / "last.ckpt"
    if damaged:  # the one of step 2 is taken
        last.write_bytes(last.read_bytes()[:-1000])
    status, out, err = command(*words)
    assert status == 0, out + err
    assert (f"{last} is damaged and passed over" in err) == damaged
    assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"], "a finished run needs no second one"
    assert run_folder.read_state(begun)["seconds"] > 0
    resumed = load_file(begun / "weights.safetensors")
    assert resumed.keys() == reference.keys()
    assert all(torch.equal(resumed[name], tensor) for name, tensor in reference.items())
    assert (begun / "metrics.csv").read_text() == metrics

    # and once more, dying when there is no step left to do
    (begun / "weights.safetensors").unlink()
    run_folder.write_state(begun, {**run_folder.read_state(begun), "finished": False})
    status, out, err = command(*words)
    assert status == 0, out + err
    assert (begun / "metrics.csv").read_text() == metrics, "rows of the last step used to vanish"
    assert not re.search(r"not resumable|is not empty|Epoch", out + err)
    again = load_file(begun / "weights.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in reference.items())


def test_a_batch_that_is_not_finite_is_skipped_and_counted(
    command: Command, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    step = training.Task.training_step

    def poisoned(task: training.Task, pair: object, index: int) -> torch.Tensor:
        seen.append(torch.cat([p.detach().flatten().clone() for p in task.model.parameters()]))
        return step(task, pair, index) * (float("nan") if index == 1 else 1.0)

    monkeypatch.setattr(training.Task, "training_step", poisoned)
    status, out, err = command("+experiment=fllic", "trainer.max_steps=4", *TINY, *data(pictures))
    assert status == 0, out + err
    assert not torch.equal(seen[0], seen[1]) and torch.equal(seen[1], seen[2]) and not torch.equal(seen[2], seen[3])
    assert json.loads((command.runs()[0] / "summary.json").read_text())["skipped_batches"] == 1


def test_training_that_never_has_a_finite_loss_fails(
    command: Command, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = training.Task.training_step
    monkeypatch.setattr(training.Task, "training_step", lambda task, *a: step(task, *a) * float("nan"))
    status, _, err = command("+experiment=fllic", "trainer.max_steps=3", *TINY, *data(pictures))
    assert status == 1 and "not finite in any step from 1 to 3: lower lr" in err
    assert not (command.runs()[0] / "weights.safetensors").exists()


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], int]]:
    """Of every training step: its sample numbers, and the seed of the noise in the place of rounding."""
    steps: list[tuple[list[int], int]] = []
    transfer, step = DataModule.on_before_batch_transfer, training.Task.training_step

    def told(data: DataModule, batch: object, index: int) -> object:
        if isinstance(batch, dict):
            numbers.append(batch["number"].tolist())
        return transfer(data, batch, index)

    def watched(task: training.Task, pair: object, index: int) -> torch.Tensor:
        loss = step(task, pair, index)
        steps.append((numbers[len(steps)], torch.initial_seed()))
        return loss

    numbers: list[list[int]] = []
    monkeypatch.setattr(DataModule, "on_before_batch_transfer", told)
    monkeypatch.setattr(training.Task, "training_step", watched)
    return steps


def test_runs_that_start_from_weights_see_new_samples_and_new_noise(
    command: Command, pictures: Path, fresh: list[tuple[list[int], int]]
) -> None:
    tiny = ("trainer.max_steps=3", *TINY, *data(pictures))
    start: tuple[str, ...] = ()
    for words, samples in (((), 6), (("data.batch=4",), 20), (("trainer.max_steps=1",), 22)):
        before = command.runs()
        status, out, err = command("+experiment=fllic", *tiny, *words, *start)
        assert status == 0, out + err
        (last,) = set(command.runs()) - set(before)
        assert weights.read(last / "weights.safetensors")[1]["samples"] == samples
        start = (f"init_from={last}",)
    # the second run's batches of 4 begin at a multiple of 4
    assert [n for numbers, _ in fresh for n in numbers] == [*range(6), *range(8, 20), *range(20, 22)]
    assert len({seed for _, seed in fresh}) == len(fresh) == 7


def test_the_rungs_of_a_chain_share_no_sample(
    command: Command, pictures: Path, fresh: list[tuple[list[int], int]]
) -> None:
    words = ("trainer.max_steps=2", "min_ms_ssim=0.1", *TINY, *data(pictures, "jdc_cn8"))
    status, out, err = command("+experiment=jdc_cn8", "+start=codec_chain", "lmbda=2048", *words)
    assert status == 0, out + err
    assert [n for numbers, _ in fresh for n in numbers] == list(range(12)), "codec, top rung and the one below"
    assert len({seed for _, seed in fresh}) == len(fresh) == 6


def test_init_from_starts_from_another_run(command: Command, pictures: Path) -> None:
    tiny = ("trainer.max_steps=1", *TINY, *data(pictures))
    assert command("+experiment=fllic", *tiny)[0] == 0
    (first,) = command.runs()
    # no step is as small as this one, so what comes out is what went in
    status, out, err = command("+experiment=fllic", f"init_from={first}", "lr=1e-12", "seed=5", *tiny)
    assert status == 0, out + err
    second = next(f for f in command.runs() if f != first)
    one, two = (load_file(f / "weights.safetensors") for f in (first, second))
    assert all(torch.allclose(one[n], two[n], atol=1e-6) for n in one if not n.startswith("tables"))
    (curve,) = {row["curve"] for row in rows(second)}
    assert re.search(r" init_from=fllic-[0-9a-f]{4}:2 ", curve), "the method and samples of the start, not its path"
    with hydra_config():
        starts = [plan.draft(["+experiment=fllic", f"init_from={place}"]) for place in (first, first / weights.NAME)]
    assert starts[0].config["curve"] == starts[1].config["curve"]
    status, _, err = command("+experiment=fllic", f"init_from={first}", "model.num_latents=64", *tiny)
    assert status == 1 and "weights of another model" in err


def test_a_teacher_that_would_learn_a_test_scene_is_refused_before_training(command: Command, pictures: Path) -> None:
    said = (
        *TINY,
        *data(pictures, "jdc_ud"),
        "+needs.teacher.data.train=[pairs,unseen]",
        "+needs.teacher.data.test=[test]",
    )
    status, _, err = command("+experiment=jdc_ud", "trainer.max_steps=1", *said)
    assert status == 2 and "needs, would learn from 1 scenes of data.test (as unseen/0)" in err
    assert not command.runs()


def test_a_start_that_learned_a_test_scene_is_refused_and_its_scenes_are_recorded(
    command: Command, pictures: Path
) -> None:
    tiny = ("trainer.max_steps=1", *TINY, *data(pictures, "jdc_n"))
    assert command("+experiment=codec", *tiny)[0] == 0
    path = command.runs("codec")[0] / "weights.safetensors"
    config, about, _ = weights.read(path)

    def started(*scenes: str) -> tuple[int, str]:
        weights.save(weights.load(path), config, path, about={**about, "train_scenes": list(scenes)})
        status, _, err = command("+experiment=jdc_n", f"init_from={path}", *tiny)
        return status, err

    status, err = started("unseen/0", "pairs/1")
    assert status == 1 and "from which the model starts, learned from 1 scenes of data.test (as unseen/0)" in err
    assert started("elsewhere/5")[0] == 0
    (run,) = [f for f in command.runs("jdc_n") if (f / "weights.safetensors").is_file()]
    scenes = weights.read(run / "weights.safetensors")[1]["train_scenes"]
    assert scenes == ["elsewhere/5", *(f"pairs/{i}" for i in range(4))], "a chain of starts forgets none"


def test_a_failed_job_does_not_stop_the_others_and_sets_the_exit_status(
    command: Command, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = training.run

    def fail_one(folder: Path) -> None:
        if folder.name.startswith("fllic-s10-l2048"):
            raise RuntimeError("the disk is on fire")
        run(folder)

    monkeypatch.setattr(training, "run", fail_one)
    status, out, err = command(
        "+experiment=clean_entropy", "-m", "lmbda=2048,512", "trainer.max_steps=1", *TINY, *data(pictures)
    )
    assert status == 1, out + err
    assert "the disk is on fire" in err and "it needs fllic-s10-l2048" in err
    assert sum(run_folder.read_state(f)["finished"] for f in command.runs() if run_folder.read_state(f)) == 2
    assert (command.folder / "t" / "report" / "results.csv").is_file()


def test_an_interrupted_sweep_ends_in_one_line_and_starts_no_other_job(
    command: Command, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training.Task, "training_step", interrupted)
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt) as ended:
            command("+experiment=fllic", "lmbda=2048,512", "-m", "trainer.max_steps=3", *TINY, *data(pictures))
    finally:
        signal.signal(signal.SIGINT, on_interrupt)  # Lightning ignores further ones
    assert [bool(run_folder.read_state(folder)) for folder in command.runs()] == [True, False]
    entry._report_interrupt(ended.type, ended.value, ended.tb)
    err = command.capfd.readouterr().err
    assert err == "jdcsuite: interrupted; the same command goes on from the last checkpoint\n"


def test_an_interrupt_while_modules_are_imported_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "hydra.py").write_text("raise KeyboardInterrupt\n")
    path = f"{tmp_path}:{Path(jdcsuite.__file__).parents[1]}"
    ended = subprocess.run([sys.executable, "-m", "jdcsuite"], env={"PYTHONPATH": path}, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGINT
    assert ended.stderr.startswith("jdcsuite: interrupted;") and len(ended.stderr.splitlines()) == 1


def test_an_error_that_cannot_be_logged_is_still_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(training, "run", full)
    (tmp_path / "config.yaml").write_text("key: x\ndebug: false\n")
    (tmp_path / "error.log").mkdir()  # cannot be replaced by a file
    reason = attempt(tmp_path)
    assert reason.startswith("OSError: no space left") and "error.log is a folder" in reason


def test_a_full_disk_is_the_reason_for_what_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of the attempt, which could not be written either, used to be named in place of the checkpoint."""

    def refused(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def build(*arguments: object) -> None:
        atomic.write(tmp_path / run_folder.LAST, b"")

    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").write_text("key: x\ndebug: false\nseed: 0\nneeds: {}\n")
    run_folder.write_state(tmp_path, {"key": "x", "finished": False, "needs": {}})
    monkeypatch.setattr(training, "build", build)
    monkeypatch.setattr(os, "fsync", refused)
    last = tmp_path / run_folder.LAST
    assert (
        attempt(tmp_path) == f"{last} cannot be written (No space left on device): make room or choose another place."
    )


def test_a_report_that_fails_is_a_failure_after_training(
    command: Command, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: object, **options: object) -> None:
        raise UserError("the report cannot be written")

    monkeypatch.setattr(reporting, "make", refused)
    status, _, err = command("+experiment=fllic", "trainer.max_steps=1", *TINY, *data(pictures))
    assert status == 1 and err.count("the report cannot be written") == 1 and "Traceback" not in err


def test_a_folder_of_runs_that_cannot_be_made_is_refused(command: Command, pictures: Path) -> None:
    command.folder.write_text("a file\n")
    status, _, err = command("+experiment=fllic", "trainer.max_steps=1", *TINY, *data(pictures))
    assert status == 2 and "cannot be written (Not a directory)" in err and len(err.splitlines()) == 1


def test_a_damaged_configuration_of_the_same_job_is_written_again(tmp_path: Path) -> None:
    config = {"key": "0123abcd", "needs": {}}
    run_folder.write_config(tmp_path, config)
    run_folder.begin(tmp_path, config)
    for damage in (b"key: [", b"", b"\xff\xfe\x00", None):
        if damage is None:
            (tmp_path / "config.yaml").unlink()
        else:
            (tmp_path / "config.yaml").write_bytes(damage)
        with pytest.raises(UserError, match=r"cannot be read|holds no job"):
            run_folder.read_config(tmp_path)
        with pytest.raises(UserError, match="belongs to another configuration"):
            run_folder.write_config(tmp_path, {**config, "key": "4567abcd"})
        run_folder.write_config(tmp_path, config)
        assert run_folder.read_config(tmp_path) == config


def test_metrics_are_kept_until_their_new_file_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = loggers.LocalCsv(folder=tmp_path)
    for step in range(3):
        logger.log_metrics({"loss": 1.0}, step)
        logger.save()
    before = (tmp_path / "metrics.csv").read_text()

    def full(rows: object, path: Path) -> None:
        raise UserError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(loggers, "write_rows", full)
        with pytest.raises(UserError, match="no space left"):
            loggers.LocalCsv(folder=tmp_path).log_metrics({"loss": 2.0}, 2)
    assert (tmp_path / "metrics.csv").read_text() == before
    with (tmp_path / "metrics.csv").open("ab") as file:  # a killed job's last row, of step 12, and worse
        file.write(b"\xff\x00,\xff\n7.0,1")
    resumed = loggers.LocalCsv(folder=tmp_path)
    resumed.log_metrics({"loss": 2.0, "more": 1.0}, 2)
    resumed.save()
    assert (tmp_path / "metrics.csv").read_text().split() == ["loss,more,step", "1.0,,0", "1.0,,1", "2.0,1.0,2"]


def test_rerun_and_changed_needs_run_again(command: Command, pictures: Path) -> None:
    tiny = ("trainer.max_steps=1", *TINY, *data(pictures))
    assert command("+experiment=clean_entropy", *tiny)[0] == 0
    status, out, _ = command("+experiment=fllic", "rerun=true", *tiny)
    assert status == 0 and "finished before" not in out
    assert command("+experiment=clean_entropy", *tiny)[1].count("finished before") == 2  # the same weights came out
    (fllic,) = command.runs("fllic")
    weights = fllic / "weights.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(bytes(changed))
    assert command("+experiment=clean_entropy", *tiny)[1].count("finished before") == 1


def test_a_folder_of_another_configuration_is_refused(command: Command, pictures: Path) -> None:
    words = ("+experiment=fllic", "trainer.max_steps=1", *TINY, *data(pictures))
    assert command(*words)[0] == 0
    (folder,) = command.runs()
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace(f"key: {folder.name[-8:]}", "key: '00000000'"))
    status, _, err = command(*words)
    assert status == 2 and "belongs to another configuration" in err and "Traceback" not in err


def test_lmbda_is_searched_for_a_target_rate(
    command: Command, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = ("+experiment=fllic", "trainer.max_steps=1", *TINY, *data(pictures))
    status, out, err = command(*tiny, "target_bpp=50", "rate_search.runs=3", "-m", "rungs=3")
    assert status == 1 and "target_bpp was not reached within 2.0% (50 bpp: lmbda" in err, out + err
    rates = {
        float(run_folder.read_config(run)["lmbda"]): float(results.read([run])["bpp"].mean()) for run in command.runs()
    }
    # first the middle rung of the ladder, then a higher one, of which a network of one step makes no use
    assert set(rates) == {2048, 32800} and "the rate does not follow lmbda there" in err
    assert set(results.read([command.folder / "t" / "report" / "results.csv"])["lmbda"].dropna()) == rates.keys()

    # the same command goes on from the runs that there are; one of them has the rate of another target
    status, out, err = command(*tiny, "target_bpp=50", "rate_search.runs=3", "-m", "rungs=3")
    assert status == 1 and out.count("finished before") == 2
    status, out, err = command(*tiny, f"target_bpp={rates[2048]:.4f}", "lmbda=2048")
    assert status == 0 and len(command.runs()) == 2 and f"lmbda 2048: {rates[2048]:.4g} bpp" in out, out + err
    status, out, err = command(*tiny, "target_bpp=0.5,1", "-m", "--plan")
    assert status == 0 and "1 to run, 1 finished" not in out and out.count("at most 6 jobs") == 2, out + err

    known = command.runs()
    # a cluster's queue gets the job behind the runs that there are
    for name, body in {"sbatch": f"cat >> {tmp_path}/jobs; echo 1", "scontrol": "exit 1"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    status, out, err = command(*tiny, f"target_bpp={rates[2048] * 0.9:.4f}", "-m", "rungs=3", "launcher=slurm")
    (submitted,) = set(command.runs()) - set(known)
    jobs = (tmp_path / "jobs").read_text()
    assert status == 0 and "give the same command again when the jobs have ended" in out, out + err
    assert run_folder.read_config(submitted)["lmbda"] < 2048 and f"run {submitted}" in jobs and jobs.count("exec") == 2


@given(
    slope=st.floats(0.2, 0.7), bend=st.floats(-0.01, 0.01), level=st.floats(-1, 1), goal=st.floats(-1, 1),
    chance=st.lists(st.floats(-0.005, 0.005), min_size=8, max_size=8),
)  # fmt: skip
def test_a_search_for_a_rate_needs_few_runs(
    slope: float, bend: float, level: float, goal: float, chance: list[float]
) -> None:
    """Rates as of trained codecs: nearly a straight line in logarithms, and each run a little off it."""
    search = rate_search.Search([], math.exp(level + goal), 0.02, 8, starts=[512, 2048, 8192])
    while (lmbda := search.next) is not None:
        x = math.log(lmbda / 2048)
        search.rates[lmbda] = math.exp(level + slope * x + bend * x * x + chance[len(search.rates)])
    assert search.reached and not search.shortfall, str(search)


def test_a_search_ends_where_the_rate_does_not_follow_lmbda() -> None:
    search = rate_search.Search([], 3.0, 0.02, 8, starts=[2048])
    while (lmbda := search.next) is not None:
        search.rates[lmbda] = min(1.5, (lmbda / 2048) ** 0.4)
    assert len(search.rates) == 3 and "the rate does not follow lmbda there" in search.shortfall


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["+experiment=nope"], "there is no experiment 'nope': choose one of"),
        (["+experiment=fllic", "sigmaa=3"], "there is no key 'sigmaa'"),
        (["+experiment=fllic", "model.foo=3"], "there is no key 'model.foo'"),
        (["+experiment=fllic", "+model.foo=3"], "unexpected keyword argument 'foo'"),
        (["+experiment=fllic", "budget=big"], "there is no budget 'big': choose one of demo, lab, paper"),
        (["+experiment=fllic", "sigma=-1"], "sigma=-1 is not a noise level"),
        (["+experiment=fllic", "seed=-1"], "seed=-1 is not usable"),
        (["+experiment=jdc_n", "data.root=5"], "data.root=5 is no path"),
        (["+experiment=jdc_ud", "min_ms_ssim=1.5"], "min_ms_ssim=1.5 is not usable"),
        (["+experiment=fllic", "sigma=x"], "sigma=x is not a noise level"),
        (["+experiment=fllic_w", "sigma=x", "-m"], "jdcsuite: sigma=x is not a noise level: give grey levels"),
        (["+experiment=fllic_w", "rungs=x", "-m"], "jdcsuite: rungs=x is not usable: give a whole number"),
        (["+experiment=fllic", "lmbda=-1"], "lmbda=-1 is not usable"),
        (["+experiment=fllic", "target_bpp=0"], "target_bpp=0 is not usable: give a number"),
        (["+experiment=flagship", "target_bpp=1"], "target_bpp=1 has no effect on flagship, which has no lmbda"),
        (["+experiment=fllic", "target_bpp=1", "rate_search.runs=0"], "rate_search.runs=0 is not usable"),
        (["+experiment=fllic", "+rate_search.run=2"], "did you mean rate_search.runs?"),
        (["+experiment=fllic", "lmbda=[1"], "'lmbda=[1' cannot be read"),
        (["+experiment=fllic", "data.batch=0"], "data.batch=0 is not usable"),
        (["+experiment=fllic", "data.train=x"], "give data.root=FOLDER too"),
        (["+experiment=fllic", "data.root=NOWHERE"], "NOWHERE does not exist"),
        (["+experiment=fllic", "data.root=ROOT", "data.train=kodak24"], "jdc fetch kodak24 --root"),
        (["+experiment=fllic", "data.root=ROOT", "data.train=train", "data.test=[train]"], "a picture cannot be both"),
        (
            ["+experiment=fllic", "data.root=ROOT", "data.train=train", "data.crop=90"],
            "smaller than the 90 pixels of data.crop: ",
        ),
        (["+experiment=fllic", "init_from=NOWHERE"], "there are no weights at NOWHERE"),
        (["+experiment=fllic_w", "target=x"], "target=x is unknown"),
        (["+experiment=fllic,fllic_u", "-m"], "add +sweep=ladder"),
        (["+experiment=fllic", "trainer.devices=0"], "trainer.devices=0 is not usable"),
        (["+experiment=fllic", "trainer.devices=4096", "trainer.accelerator=cpu"], "CPU cores: give fewer"),
        (["+experiment=fllic", "trainer.devices=auto"], "trainer.devices=auto is not usable"),
        (["+experiment=fllic", "criterion.lmbda=5"], "is written as lmbda=5, which criterion.lmbda follows"),
        (["+experiment=fllic_w", "criterion.target=codec2"], "is written as target=codec2"),
        (["+experiment=fllic", "width=0"], "width=0 is not usable"),
        (["+experiment=fllic", "lr=abc"], "lr=abc is not usable"),
        (["experiment=fllic"], "write +experiment=NAME"),
        (["+experiment=fllic", "lambda=3"], "there is no key 'lambda' in the configuration: did you mean lmbda?"),
        (["+experiment=fllic", "batch_size=3"], "did you mean data.batch?"),
        (["+experiment=fllic", "sigma=10,20"], "sigma=10,20 gives several values: add -m"),
        (["+experiment=fllic", "launcher.kind=slurm", "-m"], "launcher.kind=slurm lacks the other keys"),
        (["+experiment=jdc_cn8", "sigma=5"], "sigma=5 has no effect on jdc_cn8: leave it out"),
        (["+experiment=jdc_cn8", "sigma=5,20", "-m"], "sigma=5 has no effect on jdc_cn8: leave it out"),
        (["+experiment=fllic", "min_ms_ssim=.5,.8", "-m"], "min_ms_ssim=0.5 has no effect on fllic: leave it out"),
        (["+experiment=fllic", "rate_scale=2"], "rate_scale=2 has no effect on fllic: leave it out"),
        (["+experiment=fllic", "+trainer.gradient_clip_val=1"], "set task.max_norm"),
        (["+experiment=fllic", "+trainer.max_stepss=1"], "did you mean trainer.max_steps?"),
        (["+experiment=fllic", "+sedd=1"], "did you mean seed?"),
        (["+experiment=jdc_ud", "+needs.teacher.foo=1"], "needs.teacher.foo is not a key of unet"),
        (["+experiment=fllic", "trainer.accelerator=gpu"], "no GPU is visible"),
        (
            ["+experiment=fllic_r2r", "data=real_noise"],
            "needs the noise level of its images, which recorded pairs do not",
        ),
        (["+experiment=fllic", "trainer.precision=16-mixed"], "choose auto, 32-true, 64-true, bf16-mixed or bf16"),
        (["+experiment=codec", "criterion.distance=ms_ssim"], "needs crops of 176 pixels or more: set data.crop"),
        (["+experiment=jdc_n", "data.train=[nope]"], "data.train names what lies in data.root"),
        (["+experiment=jdc_n", "data.clean=nope"], "data.clean names what lies in data.root"),
        (["+experiment=jdc_n", "data.root=ROOT/pairs", "data.test=[nope]"], "is one set of pairs itself"),
        (["+experiment=jdc_ud", "data.crop=128"], "or min_ms_ssim, needs crops of 176 pixels or more"),
        (["+experiment=unet", "criterion.distance=l2"], "is unknown: choose mse, l1 or ms_ssim"),
        (["+experiment=fllic", "criterion.distance=l1"], "is unknown: choose mse or ms_ssim"),
        (["+experiment=unet", "+start=chain"], "this experiment has none (no lmbda)"),
        (["+experiment=unet", "+start=chain", "lmbda=1024"], "lmbda=1024 has no effect on unet: leave it out"),
        (["+experiment=jdc_n", "+start=chain", "sigma=5"], "sigma=5 has no effect on jdc_n: leave it out"),
        (["+experiment=jdc_ud", "sigma=5"], "sigma=5 has no effect on jdc_ud: leave it out"),
        (["+experiment=jdc_ud", "target=lossless"], "target=lossless has no effect on jdc_ud: leave it out"),
        (["+experiment=fllic_w", "~data.lossless"], "~data.lossless removes what jobs need"),
        (["+experiment=fllic", "~trainer.devices"], "~trainer.devices removes what jobs need"),
        (["+experiment=fllic", "model=null"], "take the name of a file in conf/"),
        (["+experiment=fllic", "logger.project=3"], "logger.project=3 is not usable: give a word"),
        (["+experiment=fllic", "debug=maybe"], "debug=maybe is not usable: give true or false"),
        (["+experiment=fllic", "report.beside=nlm"], "report.beside=nlm is not usable: give a list in brackets"),
        (["+experiment=fllic", "report.standards.avif=5"], "standards.avif=5 is not usable: give a list in brackets"),
        (["+experiment=fllic", "trainer.precision=half"], "trainer.precision=half is unknown: choose auto, 32-true,"),
        (["+experiment=fllic", "trainer.accelerator=abacus"], "trainer.accelerator=abacus is unknown: choose auto,"),
        (["+experiment=fllic", "task.optimizer=null"], "task.optimizer=None is not usable"),
        (["+experiment=fllic", "+needs.teacher.seed=3"], "needs.teacher lacks `experiment` or `into`"),
        (["+experiment=fllic", "+needs.a={experiment: unet, into: model.x.y}"], "is no part of the model or criterion"),
        (["+experiment=fllic", "+needs.a={experiment: self, into: model}"], "the needs of fllic form a circle"),
        ([], "no experiment was named"),
    ],
)
def test_a_user_error_is_one_sentence(command: Command, pictures: Path, words: list[str], message: str) -> None:
    if {"trainer.accelerator=gpu", "trainer.precision=bf16-mixed"} & set(words) and torch.cuda.is_available():
        pytest.skip("a GPU is visible, so this is no mistake")
    words = [word.replace("ROOT", str(pictures)) for word in words]
    status, _, err = command(*words, "logger=none", "trainer.max_steps=1")
    assert status == 2
    assert message in err and "Traceback" not in err and len(err.strip().splitlines()) == 1
    assert not command.runs(), "nothing was started"


def test_a_curve_is_named_by_what_differs_from_the_experiment() -> None:
    def curve(*words: str) -> str:
        with hydra_config():
            return plan.draft(list(words)).config["curve"]

    assert curve("+experiment=jdc_cn", "model.index_cost=fixed") == curve("+experiment=jdc_cn") == "jdc_cn"
    assert curve("+experiment=jdc_cn", "model.index_cost=adaptive") == "jdc_cn model.index_cost=adaptive"
    assert {curve("+experiment=fllic", f"++lmbda={rung}") for rung in (512, 2048)} == {"fllic"}
    assert curve("+experiment=fllic", "budget=lab", "seed=3", "sigma=5", "trainer.val_every=7", "name=b") == "fllic"
    assert curve("+experiment=jdc_n", "data.root=r", "data.clean=other") == "jdc_n data.clean=other"
    assert curve("+experiment=fllic", "model=fllic_small") == "fllic model=fllic_small"
    assert curve("+experiment=jdc_n", "+start=chain", "lmbda=512") == "jdc_n +start=chain"
    assert curve("+experiment=fllic", "task.max_norm=2.0") == curve("+experiment=fllic", "task.max_norm=2")


def test_a_key_has_one_curve_name(pictures: Path) -> None:
    """A group's choice and the same values one by one are two curves, so they must not share a run."""
    words = ["+experiment=fllic", "lmbda=512", "data.crop=64", *data(pictures)]
    with hydra_config():
        small = plan.plan([*words, "model=fllic_small"])
        values = {f"model.{name}": value for name, value in small.config["model"].items() if name != "_target_"}
        same = plan.plan([*words, *(f"++{name}={'null' if v is None else v}" for name, v in values.items())])
        twice = [plan.plan([*words, f"task.max_norm={norm}"]) for norm in ("2", "2.0")]
    assert same.config["model"] == small.config["model"]
    assert same.config["curve"] != small.config["curve"] and same.key != small.key
    assert len({(job.key, job.config["curve"]) for job in twice}) == 1


def test_jdc_ud_has_no_clean_images() -> None:
    """A fifth of its batches used to be clean images."""
    with hydra_config():
        for method in ("jdc_ud", "jdc_ud_whole"):
            job = plan.draft([f"+experiment={method}", "data.root=nowhere", "data.train=[a]"])
            assert job.config["data"]["clean_share"] == 0 and job.config["data"]["clean"] is None


def test_needs_inherit_keys_that_they_have_and_take_any_value() -> None:
    with hydra_config():
        guided = plan.draft(["+experiment=fllic_w", "data.lossless.coder=jpegxl", "++criterion.lean=0.5", "lr=0.5"])
        taught = plan.draft(
            ["+experiment=jdc_ud", "data.root=r", '+needs.teacher.data.train=[{folder: y, only: ["C*", "[ab]*"]}]']
        )
    entropy = guided.needs["guide"]
    supervised = entropy.needs["codec"]
    assert entropy.config["data"]["lossless"]["coder"] == "jpegxl" and supervised.config["data"]["lossless"] is None
    assert guided.config["criterion"]["lean"] == 0.5 and "lean" not in supervised.config["criterion"]
    assert supervised.config["task"]["optimizer"]["lr"] == entropy.config["task"]["optimizer"]["lr"] == 0.5
    assert taught.needs["teacher"].config["data"]["train"] == [{"folder": "y", "only": ["C*", "[ab]*"]}]


def test_removed_options_are_in_the_curve_and_inherited() -> None:
    with hydra_config():
        job = plan.draft(["+experiment=fllic_w", "~task.optimizer.fused"])
    assert job.config["curve"] == "fllic_w ~task.optimizer.fused"
    supervised = job.needs["guide"].needs["codec"]
    assert all("fused" not in one.config["task"]["optimizer"] for one in (job, job.needs["guide"], supervised))


@pytest.mark.parametrize(("target", "lmbda"), [("codec", 512), ("lossless", None)])
def test_keys_of_a_guide_are_set_in_its_configuration(target: str, lmbda: int | None) -> None:
    with hydra_config():
        job = plan.draft(["+experiment=fllic_w", f"target={target}", "lmbda=512", "+needs.guide.trainer.max_steps=12"])
    guide = job.needs["guide"].config
    assert (guide["trainer"]["max_steps"], guide["lmbda"]) == (12, lmbda) and job.config["trainer"]["max_steps"] == 80


def photographs(folder: Path, *, count: int = 6, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(random.integers(0, 256, (80, 80, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def test_the_key_covers_image_contents_not_their_paths(tmp_path: Path) -> None:
    def key(root: Path) -> str:
        with hydra_config():
            return plan.plan(["+experiment=fllic", f"data.root={root}", "data.crop=64", "data.val_crop=64"]).key

    one = photographs(tmp_path / "one" / "photos")
    other, same = photographs(tmp_path / "two" / "photos", seed=1), photographs(tmp_path / "elsewhere")
    first = key(one)
    assert key(other) != first, "two roots of one last name"
    assert key(same) == first, "the same pictures under another name"
    Image.open(other / "0.png").save(one / "added.png")
    assert key(one) != first


def test_the_key_covers_the_source_of_code_outside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_losses.py").write_text("WEIGHT = 1\n")
    config = {section: {} for section in identity.SECTIONS} | {"init_from": None, "needs": {}}
    config["criterion"] = {"_target_": "own_losses.Loss", "inner": [{"_target_": "torch.nn.Identity"}]}
    before = identity.key(config, data="", needs={})
    assert set(identity.foreign_code(config)) == {"own_losses", "torch.nn"}
    (tmp_path / "own_losses.py").write_text("WEIGHT = 2\n")
    assert identity.key(config, data="", needs={}) != before
    (tmp_path / "own_package").mkdir()  # without __init__.py
    (tmp_path / "own_package" / "losses.py").write_text("WEIGHT = 1\n")
    config["criterion"] = {"_target_": "own_package.losses.Loss"}
    before = identity.key(config, data="", needs={})
    (tmp_path / "own_package" / "losses.py").write_text("WEIGHT = 2\n")
    assert identity.key(config, data="", needs={}) != before


def test_init_from_does_not_overwrite_a_guide(command: Command, pictures: Path) -> None:
    """init_from used to be loaded after the needs, so that training went on with another rung's guide."""
    tiny = ("trainer.max_steps=1", *TINY, *data(pictures))
    assert command("+experiment=fllic_w", "lmbda=2048", *tiny)[0] == 0
    (start,) = command.runs("fllic_w")
    path = start / "weights.safetensors"
    model, (config, about, _) = weights.load(path), weights.read(path)
    for parameter in model.guide.parameters():
        parameter.data.fill_(0.25)
    weights.save(model, config, path, about=about)
    with hydra_config():
        job = plan.draft(["+experiment=fllic_w", "lmbda=2048", f"init_from={start}", *tiny])
        plan.identify([job], plan.Parts())
    guide = job.needs["guide"].folder.name
    needs = {"guide": command.folder / "t" / guide}
    built = training.build(job.config, needs)[1].model
    entropy, own = load_file(needs["guide"] / "weights.safetensors"), built.state_dict()
    assert all(torch.equal(own[f"guide.{name}"], tensor) for name, tensor in entropy.items())
    assert torch.equal(own["g_a.0.weight"] if "g_a.0.weight" in own else own[next(iter(own))],
                       load_file(path)["g_a.0.weight" if "g_a.0.weight" in own else next(iter(own))])  # fmt: skip


def test_every_noise_level_of_a_sweep_has_its_reference_codecs(command: Command, pictures: Path) -> None:
    words = ("+experiment=fllic", "-m", "sigma=5,10", "lmbda=512", "trainer.max_steps=1", *TINY, *data(pictures))
    status, out, err = command(*words)
    assert status == 0, out + err
    found = rows(command.folder / "t" / "report")
    assert {float(row["sigma"]) for row in found if row["method"] == "noisy + jpegxl"} == {5.0, 10.0}


def test_a_run_folder_is_the_whole_job(command: Command, pictures: Path) -> None:
    """Everything is written before the first job starts, and a folder is trained by itself, wherever it lies."""
    tiny = ("trainer.max_steps=1", *TINY, *data(pictures))
    with hydra_config():
        job = plan.draft(["+experiment=clean_entropy", f"runs={command.folder}", "name=t", *tiny])
        plan.identify([job], plan.Parts())
        plan.write([job])
    entropy, codec = job.folder, job.needs["codec"].folder
    assert sorted(command.runs()) == sorted([entropy, codec])
    assert run_folder.read_config(entropy)["needs"] == {
        "codec": {"run": codec.name, "key": job.needs["codec"].key, "into": "criterion.codec"}
    }
    moved = command.folder / "moved"
    (command.folder / "t").rename(moved)
    for folder in (moved / codec.name, moved / entropy.name):
        run_folder.begin(folder, run_folder.read_config(folder))
        training.run(folder)
        assert run_folder.is_finished(folder, folder.name[-8:]) and len(rows(folder)) == 1
    ids = {run_folder.read_state(moved / folder.name)["id"] for folder in (codec, entropy)}
    assert len(ids) == 2 and all(len(id) == 12 for id in ids), "a run in W&B is this one, not any of its name"
    begun = run_folder.read_state(moved / codec.name)["id"]
    run_folder.begin(moved / codec.name, run_folder.read_config(moved / codec.name))
    assert run_folder.read_state(moved / codec.name)["id"] == begun, "a resumed run goes on in W&B"
    (moved / codec.name / "weights.safetensors").unlink()
    run_folder.finish(moved / codec.name)
    assert not run_folder.is_finished(moved / codec.name, codec.name[-8:]), "without weights nothing is finished"


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff\x00", b'{"key": "x"}'])
def test_a_damaged_state_is_no_state(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "run.json").write_bytes(damage)
    assert run_folder.read_state(tmp_path) is None and not run_folder.is_finished(tmp_path, "x")
    run_folder.clear(tmp_path)
    assert not list(tmp_path.iterdir())


def test_code_diff_of_an_earlier_attempt_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"key": "0", "needs": {}}
    for diff in ("- a\n+ b", ""):
        monkeypatch.setattr(environment, "uncommitted_changes", lambda diff=diff: diff)
        run_folder.begin(tmp_path, config)
        assert (tmp_path / "code.diff").is_file() == bool(diff)


@pytest.mark.parametrize("flags", [("-m", "--cfg", "job"), ("--cfg", "job", "-m"), ("--cfg", "job")])
def test_the_configuration_is_shown_with_and_without_m(command: Command, flags: tuple[str, ...]) -> None:
    status, out, err = command("+experiment=fllic_w", *flags, "sigma=15")
    assert status == 0, err
    shown = yaml.safe_load(out)
    assert shown["method"] == "fllic_w" and shown["sigma"] == 15


OWN_MODEL = """
from jdcsuite.models.fllic import FLLIC

class Mine(FLLIC):
    pass
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A --config-dir with an experiment and a model of its own, and the module of that model."""
    for group, text in {
        "experiment/mine": "# @package _global_\ndefaults: [fllic, override /model: mine, _self_]\nmethod: mine\n",
        "experiment/loose": "defaults: [fllic, _self_]\nmethod: loose\n",
        "model/mine": "defaults: [fllic, _self_]\n_target_: own_models.Mine\n",
    }.items():
        path = tmp_path / "own" / f"{group}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "own")
    monkeypatch.delenv("JDCSUITE_TRUST", raising=False)
    (tmp_path / "own" / "own_models.py").write_text(OWN_MODEL)
    sys.modules.pop("own_models", None)
    return tmp_path / "own"


def test_an_experiment_that_is_not_merged_into_the_root_is_refused(command: Command, own: Path) -> None:
    status, _, err = command("--config-dir", str(own), "+experiment=loose", "trainer.max_steps=1", *TINY)
    assert status == 2 and "conf/experiment/loose.yaml was not merged" in err and "# @package _global_" in err
    assert not command.runs()


def test_weights_of_a_foreign_model_load_only_if_its_module_is_trusted(
    command: Command, pictures: Path, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--config-dir", str(own), "+experiment=mine", "trainer.max_steps=1", *TINY, *data(pictures))
    status, out, err = command(*words)
    assert status == 0, out + err
    (run,) = command.runs("mine")
    with pytest.raises(UserError, match=r"names own_models.Mine.*set JDCSUITE_TRUST=own_models"):
        weights.load(run)
    monkeypatch.setenv("JDCSUITE_TRUST", "elsewhere, own_models")
    assert type(weights.load(run)).__name__ == "Mine"
    weights.export(run, command.folder / "small.safetensors")
    picture = np.asarray(Image.open(pictures / "test" / "0.png"))
    assert jdcsuite.decompress(jdcsuite.compress(picture, run), run).shape == picture.shape


def test_a_foreign_model_that_cannot_code_is_refused_before_training(
    command: Command, pictures: Path, own: Path
) -> None:
    (own / "own_models.py").write_text(OWN_MODEL.replace("pass", "def decompress(self, data): return None"))
    words = ("--config-dir", str(own), "+experiment=mine", "trainer.max_steps=1", *TINY, *data(pictures))
    status, _, err = command(*words)
    assert status == 2 and "own_models.Mine: decompress(data) has to return a tensor" in err
    assert not command.runs()


def test_run_folders_of_earlier_versions_are_read(tmp_path: Path, pictures: Path) -> None:
    """A run folder whose configuration lists command words and holds no key, with weights and rows of its time."""
    kept = Path(__file__).parents[1] / "experiments" / "synthetic_awgn"
    run = tmp_path / "runs" / "old" / "fllic-s10-l2048-0123abcd"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("method: fllic\nneeds: {}\nmodel: {_target_: jdcsuite.models.fllic.FLLIC}\n")
    (run / "run.json").write_text('{"key": "0123abcd", "finished": true, "needs": {}}')
    (run / "results.csv").write_bytes((kept / "results.csv").read_bytes())
    (run / "weights.safetensors").symlink_to(kept / "weights" / "fllic-s10-l2048.safetensors")
    report.make([run], tmp_path / "report", Console(quiet=True))
    assert len(rows(tmp_path / "report")) == len(rows(run))
    picture = np.asarray(Image.open(pictures / "test" / "0.png"))
    assert jdcsuite.decompress(jdcsuite.compress(picture, run), run).shape == picture.shape
    out = tmp_path / "e.csv"
    arguments = ["evaluate", str(run), "--data", str(pictures / "test"), "--sigma", "10", "--out", str(out)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert "fllic-s10-l2048" in out.read_text()


def test_a_sweep_over_methods_uses_one_ladder(command: Command, pictures: Path) -> None:
    status, out, err = command(
        "+experiment=fllic,fllic_u", "+sweep=ladder", "rungs=1", "-m", "trainer.max_steps=1", *TINY, *data(pictures)
    )
    assert status == 0, out + err
    assert [f.name.split("-l")[1].split("-")[0] for f in command.runs()] == ["512", "512"]


def test_a_sweep_on_two_processes_equals_a_single_process(
    command: Command, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real process group under torchrun: same samples, rows of both ranks, no row twice."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = (
        "+experiment=fllic",
        "trainer.max_steps=2",
        "trainer.accelerator=cpu",
        *TINY,
        "data.limit=2",
        *data(pictures),
    )
    assert command(*words)[0] == 0
    one = {row["image"]: row for row in rows(command.runs()[0])}
    command.folder = command.folder.with_name("two")
    status, out, err = command(*words, "trainer.devices=2", "lmbda=8192", "-m")
    assert status == 0, out + err
    two = {row["image"]: row for row in rows(command.runs()[0])}
    assert one.keys() == two.keys() and len(two) == 2
    for image, row in one.items():
        assert row["psnr_noisy"] == two[image]["psnr_noisy"]
        # quantisation noise is drawn a rank, so the weights differ a little
        assert float(row["psnr"]) == pytest.approx(float(two[image]["psnr"]), abs=1.0)


def test_cards_state_parameters_and_macs() -> None:
    """Parameters and kMAC/px in the experiments' yaml files, at width 1, counted by PyTorch's own counter."""
    from torch.utils.flop_counter import FlopCounterMode

    counted: dict[str, tuple[int, float]] = {}
    for experiment in EXPERIMENTS:
        with hydra_config():
            config = plan.draft([f"+experiment={experiment}", "width=1"]).config
        said = json.dumps(config["model"])
        if said not in counted:
            model = training.construct(config["model"]).eval()
            known = {"sigma": torch.tensor([10.0]), "bpp_noisy": torch.tensor([16.0])}
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                model(torch.rand(1, 3, 128, 128), **known)
            kmac = counter.get_total_flops() / 2 / 128**2 / 1000
            counted[said] = sum(p.numel() for p in model.parameters()), kmac
        parameters, kmac = counted[said]
        assert config["card"]["parameters"] == parameters, experiment
        assert config["card"]["kmac_per_px"] == pytest.approx(kmac, abs=0.1), experiment


@pytest.mark.parametrize(
    ("model", "deep", "latents"),
    [("fllic", 192, 384), ("fllic_medium", 192, 384), ("fllic_small", 128, 384), ("fllic_evc", 192, 192)],
)
def test_the_deep_stages_do_not_shrink_with_width(model: str, deep: int, latents: int) -> None:
    for width in (0.04, 0.1, 0.45, 1.0):
        with hydra_config():
            said = plan.draft(["+experiment=fllic", f"model={model}", f"width={width}"]).config["model"]
        assert (said["widths"][2], said["num_latents"]) == (deep, latents)
        assert said["widths"][1] >= 32
        assert said["prior_width"] == {0.04: 8, 0.1: 16, 0.45: 80, 1.0: 192}[width]


def test_weights_of_the_lab_budget_are_small(tmp_path: Path) -> None:
    with hydra_config():
        said = plan.draft(["+experiment=fllic", "budget=lab"]).config["model"]
    model, file = training.construct(said), tmp_path / "weights.safetensors"
    model.update()
    weights.save(model, said, file, about={}, dtype=torch.bfloat16)
    assert 14e6 < file.stat().st_size < 15e6


def hydra_config():
    from hydra import initialize_config_dir

    GlobalHydra.instance().clear()
    return initialize_config_dir(str(CONF), version_base="1.3")


def test_jdc_methods_start_from_one_plain_codec(command: Command, pictures: Path) -> None:
    words = ("+start=codec", "-m", "trainer.max_steps=1", *TINY, *data(pictures, "jdc_n"))
    status, out, err = command("+experiment=jdc_n", "lmbda=512,256", *words)
    assert status == 0, out + err
    (start,) = command.runs("codec")
    assert "-l1024-" in start.name
    for folder in command.runs("jdc_n"):
        needs = json.loads((folder / "run.json").read_text())["needs"]
        assert needs["start"]["weights"] == weights.content_hash(start)


def test_model_changes_apply_to_the_codec_that_it_starts_from() -> None:
    """Rows of an adaptive model, or of testolina, must not come from the codec's own model."""
    with hydra_config():
        said = ["+experiment=jdc_cn8", "model.index_cost=adaptive", "lmbda=2048"]
        for start, role in (("codec", "start"), ("codec_chain", "above")):
            job = plan.draft([*said, f"+start={start}"])
            assert job.config["model"]["index_cost"] == "adaptive"
            assert job.needs[role].config["model"] == job.config["model"]
        for words, said in {
            ("+experiment=testolina", "+start=codec"): "testolina has another model than codec",
            ("+experiment=unet", "+start=codec"): "unet has another model than codec",
            ("+experiment=jdc_n", "+start=codec", "init_from=x"): "leave one out",
            ("+experiment=jdc_n", "+start=codec_chain", "lmbda=4096", "init_from=x"): "leave one out",
        }.items():
            with pytest.raises(UserError, match=said):
                plan.draft(list(words))


def test_the_ladder_for_real_noise_is_that_of_jdc() -> None:
    from jdcsuite.study.resolvers import ladder

    assert [ladder(None, n) for n in (1, 3, 5)] == ["4096", "4096,1024,256", "4096,2048,1024,512,256"]
    assert ladder(10, 2) == "2048,512" and ladder(5, 2) == "4096,1024"
    assert [ladder(sigma, n, "ms_ssim") for sigma, n in ((None, 4), (10, 3))] == ["64,32,16,8", "64,16,8"]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {n: t for n, t in load_file(folder / "weights.safetensors").items() if not n.startswith("tables")}


def test_a_chain_trains_each_rung_once_from_the_one_above(
    command: Command, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: dict[float, dict[str, torch.Tensor]] = {}
    build = training.build

    def watched(config: dict, needs: dict[str, Path]) -> object:
        built = build(config, needs)
        begun[config["lmbda"]] = {name: t.clone() for name, t in built[1].model.state_dict().items()}
        return built

    monkeypatch.setattr(training, "build", watched)
    tiny = ("trainer.max_steps=2", "min_ms_ssim=0.1", *TINY, *data(pictures, "jdc_cn8"))
    words = ("+experiment=jdc_cn8", "+start=chain", *tiny)
    status, out, err = command(*words, "lmbda=256")
    assert status == 0, out + err
    folders = {int(f.name.split("-l")[1].split("-")[0]): f for f in command.runs("jdc_cn8")}
    assert sorted(folders) == [256, 512, 1024, 2048, 4096]
    top = json.loads((folders[4096] / "run.json").read_text())
    assert top["needs"] == {}
    for rung in (2048, 1024, 512, 256):
        needs = json.loads((folders[rung] / "run.json").read_text())["needs"]
        assert needs["above"]["run"] == folders[2 * rung].name
        assert needs["above"]["weights"] == weights.content_hash(folders[2 * rung])
        above = weights_of(folders[2 * rung])
        assert above.keys() == begun[rung].keys()
        assert all(torch.equal(t, begun[rung][name]) for name, t in above.items())
        assert not all(torch.equal(t, begun[2 * rung][name]) for name, t in above.items()), "the rung above learnt"
        assert yaml.safe_load((folders[rung] / "config.yaml").read_text())["min_ms_ssim"] == 0.1
    status, out, err = command(*words, "-m", "rungs=5")
    assert status == 0 and out.count("finished before") == 5, out + err
    assert len(command.runs("jdc_cn8")) == 5
    with (command.folder / "t" / "report" / "results.csv").open() as file:
        learned = [row for row in csv.DictReader(file) if row["method"] == "jdc_cn8"]
    assert len(learned) == 5 and len({row["curve"] for row in learned}) == 1


def test_chains_follow_the_ladder_of_the_method() -> None:
    def rungs(*words: str) -> list[tuple[str, float]]:
        with hydra_config():
            job = plan.draft(list(words))
        found = []
        while True:
            found.append((job.config["method"], job.config["lmbda"]))
            job = job.needs.get("above")
            if job is None:
                return found

    said = "+start=chain"
    assert rungs("+experiment=jdc_n", said, "lmbda=700") == [("jdc_n", r) for r in (700, 1024, 2048, 4096)]
    assert rungs("+experiment=jdc_n", said, "lmbda=4096") == [("jdc_n", 4096)]
    assert rungs("+experiment=fllic", said, "lmbda=512") == [("fllic", r) for r in (512, 2048, 8192, 32768)]
    assert rungs("+experiment=fllic", said, "sigma=5", "lmbda=4096") == [("fllic", r) for r in (4096, 16384, 65536)]
    assert rungs("+experiment=jdc_cn8_ms_ssim", said, "lmbda=8") == [("jdc_cn8_ms_ssim", r) for r in (8, 16, 32, 64)]
    assert rungs("+experiment=jdc_n", "criterion.distance=ms_ssim", said, "lmbda=32") == [("jdc_n", 32), ("jdc_n", 64)]
    assert rungs(said, "+experiment=jdc_n", "lmbda=2048") == [("jdc_n", 2048), ("jdc_n", 4096)]
    with_codec = rungs("+experiment=jdc_n", "+start=codec_chain", "lmbda=2048")
    assert with_codec == [("jdc_n", 2048), ("jdc_n", 4096), ("codec", 1024)]


def test_changes_of_the_method_apply_to_every_rung_of_its_chain(tmp_path: Path) -> None:
    start = tmp_path / "w.safetensors"
    save_file({}, start, metadata={"format": weights.FORMAT, "model": "{}", "about": "{}"})
    words = ["+experiment=fllic_w", "+start=chain", "lmbda=8192", "rate_scale=0.7", "model.start=random",
             "criterion.lean=0.5", f"init_from={start}", "rerun=true"]  # fmt: skip
    with hydra_config():
        low = plan.plan(words)
        alone = plan.plan([w.replace("8192", "32768") for w in words])
    top = low.needs["above"]
    assert top.key == alone.key and top.folder == alone.folder, "a rung is one run, however it is asked for"
    assert top.config["rate_scale"] == 0.7 and top.config["criterion"]["lean"] == 0.5
    assert low.config["init_from"] is None and top.config["init_from"] == str(start)
    assert low.config["rerun"] and not top.config["rerun"]
    # a guide is of its own rung, not of the one above
    assert low.into == {"above": "model", "guide": "model.guide"} and low.needs["guide"].config["lmbda"] == 8192
    assert low.config["model"]["guide"]["_target_"].endswith("CleanEntropy")


def test_testolina_range_sets_both_noise_levels() -> None:
    with hydra_config():
        job = plan.draft(["+experiment=testolina_range"])
    noise = training.construct(job.config["data"]).synthetic
    assert (noise.a, noise.b) == ((0.001, 0.1), (0.001, 0.1))


def test_a_tilde_in_an_override_is_the_home_folder() -> None:
    words = ["data.root=~/a", "data.root=~", "name=a~b", "+experiment=~x"]
    assert entry._arguments(words) == [f"data.root={Path.home()}/a", f"data.root={Path.home()}", *words[2:]]


@pytest.mark.parametrize(
    ("words", "axes"),
    [
        (
            ["+sweep=ablation", "sigma=5"],
            {"+experiment": {"fllic", "fllic_u", "fllic_w", "fllic_w0"}, "lmbda": {"16384", "4096", "1024"}},
        ),
        (
            ["+experiment=fllic", "+sweep=sigmas"],
            {"+experiment": {"fllic"}, "sigma": {"10", "15", "20"}, "lmbda": {"8192", "2048", "512"}},
        ),
        (
            ["+sweep=thresholds"],
            {
                "+experiment": {"jdc_cn8"},
                "min_ms_ssim": {"0.2", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9"},
                "lmbda": {"4096", "1024", "256"},
            },
        ),
    ],
)
def test_the_papers_axes_are_sweeps(
    command: Command, monkeypatch: pytest.MonkeyPatch, words: list[str], axes: dict[str, set[str]]
) -> None:
    jobs: list[dict[str, str]] = []

    def collect(overrides: list[list[str]], *, config_name: str) -> list[object]:
        jobs.extend(dict(word.split("=", 1) for word in each) for each in overrides)
        return []

    monkeypatch.setattr(sweep, "run", collect)
    status, _, err = command(*words, "-m")
    assert status == 0, err
    assert {name: {job[name] for job in jobs} for name in axes} == axes
    assert len(jobs) == np.prod([len(values) for values in axes.values()])


def test_a_plan_shows_jobs_their_needs_and_what_is_finished_and_starts_nothing(
    command: Command, pictures: Path
) -> None:
    sweep_of = ("+experiment=fllic_w", "lmbda=2048", "seed=0,1", "trainer.max_steps=1", *TINY, *data(pictures), "-m")
    status, out, err = command(*sweep_of, "--plan", "launcher.parallel=2")
    assert status == 0, err
    assert not command.runs()
    jobs = [line for line in out.splitlines() if line.startswith(str(command.folder))]
    assert [Path(job.partition(":")[0]).name.partition("-")[0] for job in jobs] == [
        "fllic",
        "clean_entropy",
        "fllic_w",
    ] * 2
    assert all(": 1 steps" in job for job in jobs) and ", after clean_entropy-" in jobs[2]
    assert "6 to run, 0 finished" in out
    status, _, err = command("+experiment=fllic", "lmbda=2048", "trainer.max_steps=1", *TINY, *data(pictures))
    assert status == 0, err
    (folder,) = command.runs()
    shutil.rmtree(folder.parent / "report", ignore_errors=True)
    status, out, err = command(
        "+experiment=fllic", "lmbda=2048", "trainer.max_steps=1", *TINY, *data(pictures), "--plan"
    )
    assert status == 0 and f"{folder}: finished" in out and "0 to run, 1 finished" in out, err
    assert not (folder.parent / "report").exists()
