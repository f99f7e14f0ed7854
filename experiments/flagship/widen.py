"""Flagship weights -> the same network with more latents, which go on from where it stands.

    python experiments/flagship/widen.py WEIGHTS LATENTS -o OUT

A network of m latents codes what 16x16 blocks have in the m coefficients that its linear transform keeps; more of them
cost next to nothing where pictures do not need them. The new channels begin as the next coefficients of the DCT,
neither seen nor changed by the networks, under a prior of one narrow scale; the old ones keep every symbol.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jdcsuite.artifacts import weights
from jdcsuite.models.flagship import Flagship, dct_kernels
from jdcsuite.types import UserError

import torch
from hydra.utils import instantiate
from torch import Tensor

sys.path.extend(map(str, Path(__file__).parents[:2]))
import script
from grid import loaded

SCALE = -1.5  # log2 of the new channels' first scale in steps
# parameter -> the dimension along which it holds the latents, once or several times
PLACES = {
    "linear_a.module.weight": 0, "linear_a.module.bias": 0, "linear_s.0.module.weight": 1,
    "latents.module.weight": 0, "latents.module.bias": 0, "expand.0.module.weight": 1,
    "gain_a.weight": 0, "gain_a.bias": 0, "gain_s.weight": 0, "gain_s.bias": 0, "log2_channel_step": 1,
    "h_a.0.weight": 1, "fusion.2.module.weight": 0, "fusion.2.module.bias": 0, "spatial_prior.0.weight": 1,
    "spatial_prior.3.module.weight": 0, "spatial_prior.3.module.bias": 0,
}  # fmt: skip


@torch.no_grad()
def widened(old: Flagship, config: dict, latents: int) -> tuple[Flagship, dict]:
    """The wider network and its configuration. UserError where it would not be wider."""
    m = old.num_latents
    if not m < latents <= 768 or (latents - m) % 2 or m % 2:
        raise UserError(f"{latents} latents in place of {m}: give more, at most 768, both even")
    config = {**config, "num_latents": latents}
    new: Flagship = instantiate(config, _convert_="all")
    places = torch.arange(m)
    if old.spatial_prior.passes == 2:  # each codes a half of the channels, which gets half of the new ones at its end
        places += (places >= m // 2) * (latents - m) // 2
    fresh = torch.tensor(sorted(set(range(latents)) - set(places.tolist())))
    state = {}
    for name, value in old.state_dict().items():
        if name in PLACES:
            dim = PLACES[name]
            parts = value.split(m, dim)  # those of fewer channels are no latents
            parts = [_spread(part, dim, places, latents) if part.shape[dim] == m else part for part in parts]
            state[name] = torch.cat(parts, dim)
        else:
            state[name] = value
    kernels = dct_kernels(latents)[m:]
    state["linear_a.module.weight"][fresh] = kernels
    state["linear_s.0.module.weight"][:, fresh, 0, 0] = kernels.flatten(1).T
    state["fusion.2.module.bias"][latents + fresh] = SCALE
    new.load_state_dict(state)
    return new.eval(), config


def _spread(part: Tensor, dim: int, places: Tensor, latents: int) -> Tensor:
    out = torch.zeros(*part.shape[:dim], latents, *part.shape[dim + 1 :], dtype=part.dtype)
    return out.index_copy_(dim, places, part)


def main(words: list[str] | None = None) -> None:
    parser = script.parser_of(__file__, __doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("latents", type=int)
    parser.add_argument("-o", "--out", type=script.file_to_write, required=True)
    script.run(widen, parser, words)


def widen(given: argparse.Namespace) -> None:
    old = loaded(given.weights)
    config, about, _ = weights.read(weights.path_of(given.weights))
    model, config = widened(old, config, given.latents)
    weights.round_to_bf16(model)
    model.update()
    weights.save(model, config, given.out, about=about, dtype=torch.bfloat16)
    print(f"{given.out}: {given.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
