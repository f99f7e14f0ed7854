"""Scripts of the experiments on wrong input: one sentence, status 2, and nothing written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from experiment_scripts import EXPERIMENTS, load
from fllic_examples import TINY, ready, tiny
from PIL import Image

from jdcsuite.artifacts import weights

SCRIPTS = sorted(str(path.relative_to(EXPERIMENTS)) for path in EXPERIMENTS.glob("*/*.py"))
NO_INPUT = {"complexity/macs.py", "exact_file/devices.py"}
# script, words, what it says; WEIGHTS holds a small FLLIC, DATA an image, NONE nothing
CASES = [
    ("ceiling/linear_bound.py", "--root NONE --out OUT", "NONE"),
    ("complexity/times.py", "fllic=big", "fllic=big is not a method and a side: give METHOD=SIDE"),
    ("complexity/times.py", "fllic=0", "fllic=0 is not a method and a side: give METHOD=SIDE"),
    ("complexity/times.py", "fllik=64", "there is no experiment 'fllik': choose one of"),
    ("exact_file/cost.py", "NONE DATA 10", "there are no weights at NONE"),
    ("exact_file/cost.py", "WEIGHTS NONE 10", "The image folder NONE does not exist"),
    ("exact_file/seams.py", "NONE DATA 10 64", "there are no weights at NONE"),
    ("exact_file/seams.py", "WEIGHTS DATA 10 64", "tiles of 64 leave no seams in a.png: give a side"),
    ("exact_file/seams.py", "WEIGHTS DATA 10 0", "tiles of 0 leave no seams in a.png: give a side"),
    ("exact_file/speed.py", "3 2 clock", "invalid choice: 'clock'"),
    ("flagship/diagnose.py", "NONE DATA", "there are no weights at NONE"),
    ("flagship/diagnose.py", "WEIGHTS DATA", "WEIGHTS holds a FLLIC: give weights of the flagship"),
    ("flagship/grid.py", "NONE DATA", "there are no weights at NONE"),
    ("flagship/grid.py", "WEIGHTS DATA", "WEIGHTS holds a FLLIC: give weights of the flagship"),
    ("flagship/grid.py", "WEIGHTS DATA --out DATA/a.png/x.csv", "DATA/a.png cannot be a folder (File exists): give"),
    ("flagship/leg.py", "1 --data NONE", "NONE holds no folder photos_train"),
    ("flagship/part.py", "denoiser 1 --data NONE --weights NONE", "NONE holds no folder photos_train"),
    ("flagship/part.py", "denoiser 1 --data DATA --train . --weights NONE", "there are no weights at NONE"),
    ("flagship/widen.py", "NONE 32 -o OUT", "there are no weights at NONE"),
    ("flagship/widen.py", "WEIGHTS 32 -o OUT", "WEIGHTS holds a FLLIC: give weights of the flagship"),
    ("many_priors/memory.py", "NONE", "there are no weights at NONE"),
    ("many_priors/step.py", "tpu", "invalid choice: 'tpu'"),
    ("papers/figure.py", "fllic_figure_5 NONE --data DATA -o OUT", "NONE"),
    ("real_noise/index_bits.py", "NONE DATA", "there are no weights at NONE"),
    ("real_noise/index_bits.py", "WEIGHTS DATA", "WEIGHTS holds a FLLIC: give weights of a many-priors codec"),
    ("real_noise/macs.py", "wide", "invalid float value: 'wide'"),
    ("real_noise/noise.py", "NONE", "The image folder NONE/noisy does not exist"),
    ("references/check.py", "NONE", "NONE/kodim03.png"),
    ("references/references.py", "", "the following arguments are required: kodak24"),
    ("starts/bands.py", "NONE", "The image folder NONE/photos_train does not exist"),
    ("starts/starts.py", "NONE", "NONE"),
]  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("scripts")
    (root / "data").mkdir()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(root / "data" / "a.png")
    config = {"_target_": "jdcsuite.models.fllic.FLLIC", **TINY}
    weights.save(ready(tiny()), config, root / "w.safetensors", about={})
    return {"NONE": str(root / "none"), "DATA": str(root / "data"), "OUT": str(root / "out"),
            "WEIGHTS": str(root / "w.safetensors")}  # fmt: skip


def filled(text: str, places: dict[str, str]) -> str:
    for name, path in places.items():
        text = text.replace(name, path)
    return text


def test_every_script_with_input_has_a_case() -> None:
    assert {path for path, _, _ in CASES} | NO_INPUT == set(SCRIPTS)


@pytest.mark.parametrize(("path", "words", "message"), CASES, ids=[f"{path} {words}" for path, words, _ in CASES])
def test_wrong_input_is_refused_in_one_sentence(
    path: str, words: str, message: str, places: dict[str, str], capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as ended:
        load(path).main([filled(word, places) for word in words.split()])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and filled(message, places) in said and "Traceback" not in said
    assert said.splitlines()[-1].startswith(f"{Path(path).name}: "), said
    assert not Path(places["OUT"]).exists()


@pytest.mark.parametrize("path", SCRIPTS)
def test_openmp_is_told_how_to_wait_before_torch_is_loaded(path: str, tmp_path: Path) -> None:
    """Beside another process, a training step with threads that spin took up to ten times as long."""
    (tmp_path / "torch.py").write_text("import os\nprint(os.environ.get('OMP_WAIT_POLICY'), flush=True)\nos._exit(0)\n")
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), environment.get("PYTHONPATH", "")])
    command = [sys.executable, EXPERIMENTS / path, "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert ended.stdout == "PASSIVE\n" or ended.stdout.startswith(f"usage: {Path(path).name}")


def test_a_script_alone_ends_with_the_sentence_and_status_2(places: dict[str, str]) -> None:
    command = [sys.executable, EXPERIMENTS / "real_noise" / "noise.py", places["NONE"]]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith("noise.py: The image folder") and ended.stderr.count("\n") == 1
