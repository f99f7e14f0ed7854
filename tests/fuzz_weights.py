"""Damaged and forged weights files -> each is refused in one sentence, or loads and codes, fast and in little memory.

    python tests/fuzz_weights.py [CASES] [--seed S] [--only CASE]

Bytes are changed or cut off; numbers of the header, values of the configuration and tensors are replaced by absurd
ones, with the checksum of the tensors removed or mended. A case is a function of (seed, number), and `--only` repeats
one.
"""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import fuzzing
import numpy as np
import torch
from fuzz_jdc import CODECS, narrow
from safetensors.torch import save
from torch import Tensor

from jdcsuite.artifacts import weights
from jdcsuite.coding.codec import Codec
from jdcsuite.types import CorruptFile, UserError

MEBIBYTES, SENTENCE = 1024, 1000
KINDS = ("changed", "cut", "forged header", "forged configuration", "forged tensors")
MODELS = "jdcsuite.models."
GAIN = {"latent_gain": 64.0}
FLLIC = {"_target_": f"{MODELS}fllic.FLLIC", "widths": [8, 8, 16], "num_latents": 32, "prior_width": 8, **GAIN}
SIZES = {"widths": [8, 8], "blocks": [1, 1], "num_latents": 24, "prior_width": 8, "embedding": 8}
PRIORS = {"num_channels": 8, "num_latents": 12, "num_priors": 6, "index_cost": "adaptive"}
CONFIGS = {
    "FLLIC": FLLIC,
    "ManyPriors": {"_target_": f"{MODELS}manypriors.ManyPriors", **PRIORS, **GAIN},
    "Testolina": {"_target_": f"{MODELS}testolina.Testolina", "num_channels": 8, "num_latents": 12},
    "Flagship": {"_target_": f"{MODELS}flagship.Flagship", **SIZES, **GAIN},
}
ABSURD = [
    float("nan"), float("inf"), -1, 0, 1, 2, 3, 63, 64, 2**14, 20_000, 2**26, 2**31, 2**63, 10**30, 1e300, -1e300, "8",
    "nan", "${x}", None, True, [], [8] * 1000, {}, {"_target_": "os.system"}, {"_target_": f"{MODELS}unet.UNet"}, FLLIC,
]  # fmt: skip
VALUES = [1e300, float("nan"), float("inf"), 3e38, -3e38, 1e30, 1e10, -1.0, 0.0, 1e-40]
DTYPES = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint16, torch.uint8, torch.bool]


def case(kind: str, tensors: dict[str, Tensor], config: dict, random: np.random.Generator) -> bytes:
    tensors, text = dict(tensors), json.dumps(config)
    for _ in range(random.integers(1, 4)):
        if kind == "forged configuration":
            text = _configuration(text, random)
        if kind == "forged tensors":
            _tensor(tensors, random)
    digest = weights._digest(tensors) if random.random() < 0.7 else ""
    data = save(tensors, {"format": weights.FORMAT, "model": text, "about": "{}", "sha256": digest})
    if kind == "cut":
        return data[: random.integers(len(data))]
    if kind == "changed":
        out = bytearray(data)
        for _ in range(random.integers(1, 6)):
            out[random.integers(min(len(out), int(random.choice([8, 2000, len(out)]))))] = random.integers(256)
        return bytes(out)
    return _header(data, random) if kind == "forged header" else data


def _configuration(text: str, random: np.random.Generator) -> str:
    """Replaces, adds or nests a value."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if random.random() < 0.1:
        depth = int(random.choice([10, 100, 1000, 10_000]))
        return random.choice(["[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth, "9" * 5000, text[:-1]])
    key = random.choice([*config, "guide", "_target_", "start", "more"]) if isinstance(config, dict) else ""
    if not key:
        return text
    value = ABSURD[random.integers(len(ABSURD))]
    if isinstance(config.get(key), list) and config[key] and random.random() < 0.7:
        config[key][random.integers(len(config[key]))] = value
    else:
        config[key] = value
    return json.dumps(config)


def _tensor(tensors: dict[str, Tensor], random: np.random.Generator) -> None:
    """Replaces the values, the type or the shape of a tensor, or removes, renames or copies it."""
    name = str(random.choice([*tensors]))
    tensor = tensors[name]
    match random.integers(7):
        case 0:
            tensors[name] = torch.full(tensor.shape, 1, dtype=torch.float64) * VALUES[random.integers(len(VALUES))]
        case 1 if tensor.numel() and tensor.is_floating_point():
            tensors[name] = tensor.clone()
            tensors[name].view(-1)[random.integers(tensor.numel())] = VALUES[random.integers(1, len(VALUES))]
        case 2:
            tensors[name] = tensor.to(DTYPES[random.integers(len(DTYPES))])
        case 3:
            tensors[name] = tensor.flatten()[: random.integers(tensor.numel() + 1)].clone()
        case 4 if len(tensors) > 1:
            del tensors[name]
        case 5 if len(tensors) > 1:
            tensors[str(random.choice(["tables.", "tables.x.cdf", "tables.y.cdf", "x", "é" * 50]))] = tensors.pop(name)
        case _:
            noise = torch.from_numpy(random.integers(-(2**31), 2**31, tensor.shape))
            tensors[name] = noise.to(tensor.dtype)


def _header(data: bytes, random: np.random.Generator) -> bytes:
    """Changes entries of the safetensors header and writes its length anew."""
    end = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:end])
    entry = header[str(random.choice([name for name in header if name != "__metadata__"]))]
    match random.integers(4):
        case 0:
            entry["dtype"] = str(random.choice(["F64", "F32", "F8_E4M3", "F4", "BOOL", "I64", "U16", "C64", "X"]))
        case 1:
            entry["shape"] = [int(n) for n in random.choice([0, 1, 2**20, 2**40, 2**63 - 1], random.integers(4))]
        case 2:
            entry["data_offsets"] = [int(n) for n in random.choice([0, 4, 2**20, 2**62], 2)]
        case _:
            header["__metadata__"] = ABSURD[random.integers(len(ABSURD))]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[end:]


def outcome(path: Path) -> str:
    """ "refused", "loaded" or "coded". AssertionError: an error that is no sentence."""
    image = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    try:
        codec = weights.load(path)
        if not (isinstance(codec, Codec) and codec.is_ready):
            return "loaded"
        codec.decompress_array(codec.compress(image))
    except (UserError, CorruptFile) as error:
        sentence = str(error).replace(str(path), "")
        assert sentence and "\n" not in sentence and len(sentence) < SENTENCE, f"no sentence: {sentence[:500]}"
        return "refused"
    return "coded"


def fuzz(cases: range, *, seed: int, verbose: bool = False) -> fuzzing.Result:
    """Runs all cases, as `fuzzing.run`."""
    codecs = {name: narrow(name) for name in CODECS}
    originals = [({**c.state_dict(), **c.table_state()}, CONFIGS[name]) for name, c in codecs.items()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        for (_, config), codec in zip(originals, codecs.values(), strict=True):
            weights.save(codec, config, path, about={})
            assert outcome(path) == "coded" and weights.load(path).model_id == codec.model_id

        def draw(random: np.random.Generator) -> tuple[str, Callable[[], str]]:
            kind = str(random.choice(KINDS))
            path.write_bytes(case(kind, *originals[random.integers(len(originals))], random))
            return kind, lambda: outcome(path)

        return fuzzing.run(draw, cases, seed=seed, mebibytes=MEBIBYTES, verbose=verbose)


if __name__ == "__main__":
    fuzzing.report("weights", fuzz, fuzzing.parser(__doc__).parse_args())
