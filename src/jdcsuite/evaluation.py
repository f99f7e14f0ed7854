"""Codecs (learned or standard) + test pictures with their fixed noise -> rows of results, on real bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from hydra.utils import instantiate
from rich.console import Console
from rich.progress import track

from jdcsuite import runs
from jdcsuite.baselines.standards import Standard
from jdcsuite.data.datamodule import Photographs, Pictures
from jdcsuite.metrics import judge
from jdcsuite.models.codec import Codec


def rows_of(
    codec: Codec | Standard, pictures: Pictures, *, dataset: str, about: dict[str, object], console: Console
) -> list[dict[str, object]]:
    """One row a picture. ``about``: the columns that are the same for all of them."""
    label = f"{about['method']} {about.get('quality') or about.get('lmbda') or ''} on {dataset}"
    numbers: Iterable[int] = track(
        range(len(pictures)), label, console=console, transient=True, disable=not console.is_terminal
    )
    rows = []
    for i in numbers:
        name, pair = pictures[i]
        row, _ = judge(codec, pair)
        rows.append({**about, "dataset": dataset, "image": name, **row})
    return rows


def standard_about(codec: Standard, *, noise_seed: int, protocol: str) -> dict[str, object]:
    method = f"noisy + {codec.name}"
    return {
        "method": method,
        "curve": method,
        "quality": f"{codec.quality:g}",
        "noise_protocol": protocol,
        "noise_seed": noise_seed,
        "codec_version": codec.version,
        "code_version": runs.code_version(),
    }


def standards_rows(config: dict, console: Console) -> list[Path]:
    """The configured standard codecs on a job's noisy test pictures: csv files, made once a protocol."""
    data: Photographs = instantiate(config["data"], _convert_="all")
    data.prepare()
    made = []
    for name, qualities in config["report"]["standards"].items():
        codecs = [Standard(codec=name, quality=float(q)) for q in qualities]
        said = {
            k: v for k, v in config["data"].items() if k in ("root", "train", "test", "noise", "noise_seed", "limit")
        }
        said |= {"codec": name, "qualities": list(qualities), "version": codecs[0].version}
        key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:8]
        path = Path(config["runs"]) / config["name"] / "standards" / f"{name}-s{config['sigma']:g}-{key}.csv"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = []
            for codec in codecs:
                about = standard_about(codec, noise_seed=data.noise_seed, protocol=data.noise.protocol)
                for dataset in data.test_sets:
                    rows += rows_of(codec, data.pictures(dataset), dataset=dataset, about=about, console=console)
            runs.write_rows(rows, path)
        made.append(path)
    return made
