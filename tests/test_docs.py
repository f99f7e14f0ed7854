"""README.md and docs/: every command runs, every link resolves, and every verb and experiment is described.

Fenced ``bash`` blocks are commands, run page by page in a folder of small images with the names that the pages use.
Verbs of `jdc` run as they are, but in one process. Commands that train are composed and checked with the documented
configuration; those of adding.md train a step, and the slow test trains a step of all of them. Only parsed are those
that set up a clone and `jdc dashboard`, which need the network; `jdc bench`, which takes minutes; and, in the slow test
too, two devices.
Fenced ``python`` and ``yaml`` blocks that name a file become that file, other ``python`` blocks are executed.
"""

from __future__ import annotations

import csv
import importlib
import re
import runpy
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
import torch
import typer
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from PIL import Image
from test_cli import jdc as jdc  # the fixture
from test_restormer import published_shapes
from test_shipped import flagship

from jdcsuite import __main__ as training
from jdcsuite.artifacts import weights
from jdcsuite.cli.app import app
from jdcsuite.judging import results
from jdcsuite.models.fllic import FLLIC
from jdcsuite.models.unet import UNet
from jdcsuite.study import sweep
from jdcsuite.study.composition import compose
from jdcsuite.study.plan import draft
from jdcsuite.types import Row

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PATHS = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
LINKING = [*PATHS, *sorted((ROOT / "experiments").rglob("*.md"))]
LANGUAGES = {"bash", "python", "yaml", "toml", "text"}
VERBS = typer.main.get_command(app)
# Overrides with which a command that trains takes one step.
SMALL = [
    *("trainer.max_steps=1", "width=0.04", "data.batch=2", "data.workers=0", "data.limit=1", "logger=none"),
    *("trainer.progress=false", "report.standards.avif=null", "report.standards.jpegxl=null", "report.beside=[]"),
    "rungs=1",
]


class Page:
    """A documentation page. ``blocks``: (language, name of the file that a block is, or "", text)."""

    def __init__(self, path: Path) -> None:
        self.path, self.text = path, path.read_text()
        self.blocks = re.findall(r"^```(\S*) ?(\S*)\n(.*?)^```$", self.text, re.M | re.S)

    @property
    def commands(self) -> list[str]:
        """Continued lines are joined; what follows && is a command of its own."""
        text = "".join(text for language, _, text in self.blocks if language == "bash")
        parts = [part.strip() for part in re.split(r"\n| && ", re.sub(r"\\\n\s*", "", text))]
        return [part for part in parts if words_of(part)]

    @property
    def prose(self) -> str:
        return re.sub(r"^```.*?^```$", "", self.text, flags=re.M | re.S)


def words_of(command: str) -> list[str]:
    return shlex.split(command, comments=True)


PAGES = {path.name: Page(path) for path in PATHS}


# -- the folder that commands run in ---------------------------------------------------------------------------


def draw(path: Path, *, seed: int, noise: float = 0.0, iso: int | None = None) -> None:
    """A smooth random image of 200 x 184 pixels, large enough for MS-SSIM, with noise in grey levels."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    clean = np.asarray(coarse.resize((200, 184), Image.Resampling.BICUBIC))
    samples = (clean + random.normal(0, noise, clean.shape)).round().clip(0, 255).astype(np.uint8)
    exif = Image.Exif()
    if iso is not None:
        exif.get_ifd(0x8769)[0x8827] = iso
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(samples).save(path, exif=exif)


def draw_pair(folder: Path, name: str, *, seed: int) -> None:
    draw(folder / "noisy" / name, seed=seed, noise=6)
    draw(folder / "clean" / name, seed=seed)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands name: images, data sets and finished runs."""
    root = tmp_path_factory.mktemp("documented")
    draw(root / "noisy.png", seed=0, noise=10)
    draw(root / "more" / "m.tif", seed=1, noise=10)
    seed = 2
    for folder, names in {
        "scans": ("a.png", "b.png"),
        "pictures": ("c.png", "d.png", "e.png", "f.png"),
        "data/kodak24": ("k.png",),
        "data/div2k": ("g.png", "h.png", "i.png"),
        "data/photos_train": ("j.png", "l.png"),
        "data/featured_pictures": ("n.jpg", "o.jpg"),
    }.items():
        for name in names:
            draw(root / folder / name, seed=(seed := seed + 1), iso=100)
    for i in range(4):
        for folder in ("mypairs", "data/sidd"):
            draw_pair(root / folder, f"{i}.png", seed=(seed := seed + 1))
        draw_pair(root / "data" / "polyu_crops", f"Canon5D2_5_160_3200_plant{i}_1.png", seed=(seed := seed + 1))
    draw_pair(root / "data" / "cc15", "d800_iso1600_1.png", seed=(seed := seed + 1))
    for scene in ("7D-2", "MuseeL-Bobo", "bark", "door"):
        draw(root / "data" / "nind" / f"NIND_{scene}_ISO200.png", seed=len(scene))
        draw(root / "data" / "nind" / f"NIND_{scene}_ISO6400.png", seed=len(scene), noise=6)
    torch.manual_seed(0)
    shape = {"widths": [8, 8, 16], "num_latents": 32, "prior_width": 8}
    codec = FLLIC(**shape).eval()
    codec.update()
    save_run(root / "runs" / "demo" / "fllic-s10-l2048-1a2b3c4d", codec, shape)
    save_run(root / "runs" / "demo" / "unet-5e6f7a8b", UNet(width=8), {"width": 8})
    flagship(root / "flagship.safetensors")
    # a file of the published names and shapes whose tensors share one number each
    restormer = {name: torch.zeros(1).expand(shape) for name, shape in published_shapes().items()}
    torch.save({"params": restormer}, root / "gaussian_color_denoising_blind.pth")
    return root


def save_run(folder: Path, model: torch.nn.Module, options: dict[str, object]) -> None:
    """A finished run with one row of results."""
    method, kind = folder.name.partition("-")[0], type(model)
    folder.mkdir(parents=True)
    about = {"run": folder.name, "curve": method, "method": method, "sigma": 10, "lmbda": 2048, "budget": "demo"}
    config = {"_target_": f"{kind.__module__}.{kind.__name__}", **options}
    weights.save(model, config, folder / "weights.safetensors", about=about)
    row = Row(method=method, curve=method, lmbda=2048, dataset="d", image="i", bpp=1.0, psnr=30.0, psnr_noisy=28.0)
    results.write([row], folder / "results.csv")
    (folder / "config.yaml").write_text(f"method: {method}\nkey: {method}\nneeds: {{}}\ntrainer: {{max_steps: 1}}\n")


@pytest.fixture
def sandbox(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the prepared folder, beside the repository's experiments, as current folder and on the module path; the
    weights in the package are small ones."""
    folder = tmp_path / "sandbox"
    shutil.copytree(prepared, folder)
    (folder / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.setattr(weights, "SHIPPED", folder / "flagship.safetensors")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder


# -- how each command is run -----------------------------------------------------------------------------------


class Runner:
    """Runs one documented command. ``train``: commands that train take a step, instead of being composed only.
    ``slow``: scripts and `jdc bench` run too."""

    def __init__(self, jdc: Callable, monkeypatch: pytest.MonkeyPatch, *, train: bool, slow: bool = False) -> None:
        self.jdc, self.monkeypatch, self.train, self.slow = jdc, monkeypatch, train, slow

    def __call__(self, command: str) -> None:
        words = words_of(command)
        with self.monkeypatch.context() as patch:
            while re.fullmatch(r"[A-Z_]+=\S+", words[0]):
                patch.setenv(*words.pop(0).split("=", 1))
            self._run([path for word in words for path in expanded(word)], patch)

    def _run(self, words: list[str], patch: pytest.MonkeyPatch) -> None:
        match words:
            case ["python", "-m", "jdcsuite", *rest] | ["jdc", "run", *rest]:
                self.study(rest, patch)
            case ["jdc", verb, *rest] if verb in VERBS.commands:
                self.verb(verb, rest)
            case ["python", script, *rest] if (ROOT / script).is_file():
                self.script(ROOT / script, rest, patch)
            case ["git", "clone", _, _] | ["cd", _]:
                pass
            case ["python3", "-m", "venv", ".venv"] | ["source", ".venv/bin/activate"]:
                pass
            case ["python", "-m", "pip", "install", "--constraint", file, "--editable", "."]:
                assert (ROOT / file).is_file()
            case _:
                pytest.fail(f"this test does not know how to run: {shlex.join(words)}")

    def study(self, words: list[str], patch: pytest.MonkeyPatch) -> None:
        if self.train and "trainer.devices=2" not in words:
            words = made_small(words)
        else:
            patch.setattr(sweep, "run", composed)
        patch.setattr(sys, "argv", ["jdcsuite", *words])
        GlobalHydra.instance().clear()
        try:
            training.main()
        except SystemExit as end:
            assert not end.code, words
        finally:
            GlobalHydra.instance().clear()

    def verb(self, verb: str, words: list[str]) -> None:
        if verb == "dashboard" or (verb == "bench" and not self.slow):  # the former needs a W&B server
            VERBS.commands[verb].make_context(verb, list(words))
            return
        if verb == "bench":
            words = [word for word in words if not word.startswith("data.batch=")]
            small = ["width=0.1", "data.batch=2", "data.crop=64", "--steps", "1", "--blocks", "1"]
            words = [*words, *small] if words else ["--width", "0.1", "--repeats", "1"]
        if verb == "doctor":
            words = made_small(words)
        if "--jobs" in words:
            words[words.index("--jobs") + 1] = "1"
        status, out, err = self.jdc(verb, *words)
        assert status == 0, f"jdc {verb} {shlex.join(words)}: {out}{err}"

    def script(self, path: Path, words: list[str], patch: pytest.MonkeyPatch) -> None:
        if self.slow:
            patch.setattr(sys, "argv", [str(path), *words])
            runpy.run_path(str(path), run_name="__main__")


def expanded(word: str) -> list[str]:
    """The files that a word matches, as in a shell, else the word."""
    return sorted(map(str, Path().glob(word))) or [word] if "*" in word and "=" not in word else [word]


def made_small(words: list[str]) -> list[str]:
    """Overrides of a command that trains -> the same for one step of small crops; MS-SSIM needs 176 pixels."""
    text = " ".join(words)
    real = "jdc_" in text or "sweep=thresholds" in text  # which names its experiment itself
    side = 176 if "ms_ssim" in text or "jdc_ud" in text else 64
    data = [f"data.crop={side}", f"data.val_crop={side}", *(["++data.cell=176"] if real else [])]
    if "jdc_ud_whole" in text:
        data.append("min_ms_ssim=null")  # an untrained teacher's images pass no threshold
    if "data.root=" not in text:
        data.append(f"data.root={'mypairs' if real else 'pictures'}")
    replaced = {word.partition("=")[0] for word in (*SMALL, *data)} - {"data.root"}
    kept = [word for word in words if word.partition("=")[0] not in replaced]
    if "target_bpp=" in text:  # the rate of an untrained network does not follow lmbda
        kept = [word for word in kept if not word.startswith("target_bpp=")] + [
            "target_bpp=9",
            "rate_search.tolerance=.9",
        ]
    small = [word for word in SMALL if not (word.startswith("width=") and "model.widths=" in text)]  # no effect there
    return [*(re.sub(r"(\.max_steps)=\d+", r"\1=1", word) for word in kept), *small, *data]


def composed(jobs: Sequence[list[str]], *, config_name: str = "config") -> list:
    """In the place of `study.sweep.run`: composes and checks the last job; nothing is built or read."""
    draft(jobs[-1], config_name=config_name)
    return []


# -- tests -----------------------------------------------------------------------------------------------------


WITH_COMMANDS = [name for name, page in PAGES.items() if page.commands]


def run_page(name: str, runner: Runner) -> None:
    for _, file, text in PAGES[name].blocks:
        if file:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).write_text(text)
    for command in PAGES[name].commands:
        runner(command)


@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_every_command_runs(name: str, sandbox: Path, jdc: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    run_page(name, Runner(jdc, monkeypatch, train=name == "adding.md"))


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_every_command_trains(name: str, sandbox: Path, jdc: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    run_page(name, Runner(jdc, monkeypatch, train=True, slow=True))


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_python_blocks_run(page: Page, sandbox: Path) -> None:
    for language, file, text in page.blocks:
        if language == "python" and not file:
            array = np.asarray(Image.open("noisy.png"))
            names = {"array": array}
            exec(compile(text, page.path.name, "exec"), names)
            assert names["clean"].shape == array.shape


def test_a_wrong_or_unknown_command_fails(sandbox: Path, jdc: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Runner(jdc, monkeypatch, train=False)
    for command in ("jdc nothing", "rm noisy.png", "python docs/nothing.py"):
        with pytest.raises(pytest.fail.Exception, match="does not know how to run"):
            run(command)
    for command in ("python -m jdcsuite +experiment=fllic sigmas=10", "jdc info missing.jdc", "jdc noise --nothing"):
        with pytest.raises(AssertionError):
            run(command)
    with pytest.raises(Exception, match="No such option"):
        run("jdc bench --nothing")


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_every_block_has_a_language_that_is_tested(page: Page) -> None:
    assert {language for language, _, _ in page.blocks} <= LANGUAGES
    assert len(re.findall("^```", page.text, re.M)) == 2 * len(page.blocks)


@pytest.mark.parametrize("path", LINKING, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        other = path.parent / file if file else path
        assert other.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", other.read_text(), re.M)
            anchors = [re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles]
            assert anchor in anchors or f'name="{anchor}"' in other.read_text(), target


def test_every_verb_is_shown_in_a_command() -> None:
    commands = [words_of(command) for page in PAGES.values() for command in page.commands]
    assert {words[1] for words in commands if words[0] == "jdc"} == set(VERBS.commands)


def test_every_option_in_the_text_exists() -> None:
    parameters = [parameter for command in VERBS.commands.values() for parameter in command.params]
    known = {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}
    for page in PAGES.values():
        code = " ".join(re.findall(r"`([^`\n]+)`", page.prose))
        written = set(re.findall(r"--[a-z][a-z-]*", code))
        assert written <= known | {"--help", "--cfg", "--config-dir", training.PLAN}, page.path.name


def test_every_experiment_is_described_and_no_other() -> None:
    experiments = PAGES["configuration.md"].text.partition("## Root keys")[0]
    described = set(re.findall(r"^\| `(\w+)` \|", experiments, re.M))
    assert described == {path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")}


def test_every_key_in_the_text_exists() -> None:
    with initialize_config_dir(str(training.CONF), version_base="1.3"):
        configs = [compose([f"+experiment={name}"]).config for name in ("fllic_w", "jdc_cn8", "jdc_ud", "flagship")]

    def exists(key: str) -> bool:
        parent, _, name = key.rpartition(".")
        nodes = [OmegaConf.select(config, parent) if parent else config for config in configs]
        return any(node is not None and name in node for node in nodes)

    for page in PAGES.values():
        written = set(re.findall(r"`([a-z_]+(?:\.[a-z_]+)*)=", page.prose))
        table = page.text.partition("## Root keys")[2].partition("\n## ")[0]
        first_cells = "".join(re.findall(r"^\| (`.*?) \|", table, re.M))
        written |= set(re.findall(r"`([\w.]+)`", first_cells))
        assert all(exists(key) for key in written), {key for key in written if not exists(key)}


def test_the_rooms_are_those_of_the_import_contract() -> None:
    """The table of architecture.md has the layers in their order, so that a room imports only from rows below it."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    layers = [[name.strip().removeprefix("jdcsuite.") for name in layer.split("|")] for layer in contract["layers"]]
    first_cells = re.findall(r"^\| (`.*?) \|", PAGES["architecture.md"].text, re.M)
    assert [re.findall(r"`(\w+)`", cell) for cell in first_cells] == layers


def test_files_and_classes_in_the_text_exist() -> None:
    for page in PAGES.values():
        code = re.findall(r"`([^`\n]+)`", page.prose)
        own = {file for _, file, _ in page.blocks}
        for path in (
            name for name in code if re.fullmatch(r"[a-z_/]+/\w+\.(py|yaml|ipynb|csv)", name) and name not in own
        ):
            assert any((root / path).exists() for root in (ROOT, ROOT / "src" / "jdcsuite")), path
        for name in (name for name in code if re.fullmatch(r"[a-z_]+\.[a-z_]+\.[A-Z]\w+", name)):
            module, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(f"jdcsuite.{module}"), attribute), name


def test_numbers_of_the_readme_are_means_of_committed_rows() -> None:
    """Over the 24 Kodak images, by curve and operating point."""
    names = ("synthetic_awgn/results.csv", "flagship/kodak24.csv", "references/results.csv")
    tables = [list(csv.DictReader((ROOT / "experiments" / name).open())) for name in names]
    line = r"\| (\d\.\d{3}) \| \**(\d\d\.\d\d)\** \|.*<!-- (.*?) (\w+)=([\d.]+) -->"
    stated = re.findall(line, PAGES["README.md"].text)
    assert len(stated) == PAGES["README.md"].text.count("<!--")
    for bpp, psnr, curve, column, value in stated:
        wanted = curve, float(value), 10.0
        found = (
            [row for row in rows if row[column] and (row["curve"], float(row[column]), float(row["sigma"])) == wanted]
            for rows in tables
        )
        own = next(rows for rows in found if rows)
        assert len(own) == 24 and {row["dataset"] for row in own} == {"kodak24"}, curve
        means = [mean(float(row[name]) for row in own) for name in ("bpp", "psnr")]
        assert [bpp, psnr] == [f"{means[0]:.3f}", f"{means[1]:.2f}"], curve


def test_the_readme_is_one_screen_and_its_picture_is_small() -> None:
    assert len(PAGES["README.md"].text.splitlines()) <= 80
    assert (DOCS / "equal_bytes.png").stat().st_size < 300_000


def test_make_run_is_the_documented_command() -> None:
    recipe = re.search(r"^run:.*\n\t\S+/python (.*)$", (ROOT / "Makefile").read_text(), re.M)[1]
    assert ["python", *recipe.split()] in [words_of(command) for command in PAGES["README.md"].commands]
