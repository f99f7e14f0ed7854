"""Noisy image -> code of the clean image under competing priors: the codec of JDC.

Brummer and De Vleeschouwer, "On the importance of denoising when learning to compress images" (WACV 2023, arXiv
2307.06233), with the codec of "End-to-end optimized image compression with competition of prior distributions"
(arXiv 2111.09172, 2021).

    x -> g_a -> y -> [the cheapest of 64 priors at each position, whose index is coded] -> y_hat -> g_s -> x_hat
"""

from __future__ import annotations

import math
from functools import partial

import torch
from compressai.layers import GDN
from jaxtyping import Float, Int
from torch import Tensor, nn

from jdcsuite import checks
from jdcsuite.coding.transform import TransformCodec
from jdcsuite.entropy.coder import MAX_SYMBOL, Decoder, Encoder, Tables
from jdcsuite.entropy.competition import Competition
from jdcsuite.entropy.quantize import add_noise, round_ste
from jdcsuite.models.haar import haar_start_5x5
from jdcsuite.models.layers import Float32
from jdcsuite.types import CorruptFile, Output, Side

NEARLY_LINEAR = 1e-3  # initial gamma of GDN on the diagonal; the usual .1 would distort the Haar packet


def down(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 5, stride=2, padding=2)


def up(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1)


class ManyPriors(TransformCodec):
    """``num_channels``, ``num_latents``: N and M of the papers. ``index_cost``: code length of the index of a prior,
    ``fixed`` (log2(``num_priors``) bits, as published) or ``adaptive`` (`entropy.competition`). ``latent_gain``:
    latents per unit of the analysis, so that a quantisation step of 1 is fine enough from the start. ``start``:
    initialisation, ``haar`` (a linear transform coder, `models.haar`, with priors at scales around those of each
    channel) or ``random`` (that of the papers).

    There is no hyperprior and no context model, hence no network between bits and probabilities: the decoder reads the
    same integers on every machine.

    differs from the paper: the indexes are coded into the file and count in its rate, because rates here are sizes of
    files; images are centred at 0, ``latent_gain`` is not 1 and the initialisation is not random, because runs here are
    short (`experiments/starts`).
    """

    stride = 16
    segment_names = ("index", "y")
    prior_networks = ()

    def __init__(
        self,
        *,
        num_channels: int = 192,
        num_latents: int = 256,
        num_priors: int = 64,
        index_cost: str = "fixed",
        latent_gain: float = 8.0,
        start: str = "haar",
    ) -> None:
        super().__init__()
        checks.choice("model.index_cost", index_cost, ("fixed", "adaptive"))
        checks.choice("model.start", start, ("haar", "random"))
        checks.number("model.latent_gain", latent_gain, above=0)
        n, m = num_channels, num_latents
        gdn = partial(GDN, n, gamma_init=NEARLY_LINEAR) if start == "haar" else partial(GDN, n)
        self.num_latents, self.latent_gain = m, latent_gain
        # float32 next to the latents: bf16 spaces values above 256 by 2
        self.g_a = nn.Sequential(
            down(3, n), gdn(), down(n, n), gdn(), down(n, n), gdn(), Float32(down(n, m)),
        )  # fmt: skip
        self.g_s = nn.Sequential(
            Float32(up(m, n)), gdn(inverse=True), up(n, n), gdn(inverse=True), up(n, n), gdn(inverse=True),
            Float32(up(n, 3)),
        )  # fmt: skip
        self.prior_y = Competition(num_priors=num_priors, num_latents=m, index_cost=index_cost)
        self._start(start)

    @torch.no_grad()
    def _start(self, kind: str) -> None:
        # Xavier with a gain of sqrt(2), as in the papers, rescaled where the width changes: variance 2 / fan-in.
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(layer.weight, std=math.sqrt(2 / (25 * layer.in_channels)))
                nn.init.constant_(layer.bias, 0.01)
        if kind == "haar":
            analysis = [layer for layer in self.g_a.modules() if isinstance(layer, nn.Conv2d)]
            synthesis = [layer for layer in self.g_s.modules() if isinstance(layer, nn.ConvTranspose2d)]
            self.prior_y.spread(self.latent_gain * haar_start_5x5(analysis, synthesis).sqrt())

    def forward(
        self,
        x: Float[Tensor, "b 3 h w"],
        *,
        sigma: Float[Tensor, "b"] | None = None,
        bpp_noisy: Float[Tensor, "b"] | None = None,
    ) -> Output:
        height, width = x.shape[-2:]
        y = self.analyse(self.pad(x))
        with torch.autocast(x.device.type, enabled=False):
            likelihoods = self.prior_y(add_noise(y) if self.training else torch.round(y))
        return Output(x_hat=self.synthesise(round_ste(y))[..., :height, :width], likelihoods=likelihoods)

    # -- coding ------------------------------------------------------------------------------------------------

    def make_tables(self) -> dict[str, Tables]:
        return {"y": self.prior_y.tables(), "index": self.prior_y.index_tables()}

    def table_counts(self) -> dict[str, int]:
        num_priors = self.prior_y.num_priors
        return {"y": num_priors * self.num_latents, "index": num_priors + 1}

    def analyse(
        self, x: Float[Tensor, "b 3 h w"], conditions: Float[Tensor, "b 3"] | None = None
    ) -> Float[Tensor, "b c hy wy"]:
        """Padded image -> latents."""
        return self.latent_gain * self.g_a(x - 0.5)

    def synthesise(
        self, y_hat: Float[Tensor, "b c hy wy"], conditions: Float[Tensor, "b 3"] | None = None
    ) -> Float[Tensor, "b 3 h w"]:
        """Quantised latents -> padded image."""
        return self.g_s(y_hat / self.latent_gain) + 0.5

    def encode_tile(self, y: Float[Tensor, "1 c hy wy"], *, side: Side) -> tuple[list[bytes], Int[Tensor, "k"]]:
        # floating-point arithmetic only decides the choice of priors, and the choice is coded
        y_hat = torch.round(y).clamp(-MAX_SYMBOL, MAX_SYMBOL)
        chosen = self.prior_y.choose(y_hat).cpu().int()
        index, symbols = chosen.flatten(), y_hat[0].permute(1, 2, 0).flatten(0, 1).cpu().int()
        index_coder, y_coder = Encoder(), Encoder()
        index_coder.put(index, self.prior_y.above(chosen).flatten(), self.tables["index"])
        y_coder.put(symbols.flatten(), self._rows(index), self.tables["y"])
        return [index_coder.segment(), y_coder.segment()], torch.cat([index, symbols.flatten()])

    def decode_tile(
        self, segments: list[bytes], *, height: int, width: int, side: Side
    ) -> tuple[Float[Tensor, "1 c hy wy"], Int[Tensor, "k"]]:
        height, width = height // self.latent_stride, width // self.latent_stride
        index = self._read_index(segments[0], height, width)
        y_coder = Decoder(segments[1])
        by_prior = self.tables["y"].least_by_table.reshape(-1, self.num_latents).sum(1)
        y_coder.require(float(by_prior[index.numpy()].sum()))  # before memory for all symbols is taken
        symbols = y_coder.get(self._rows(index), self.tables["y"])
        y_coder.finish()
        y_hat = symbols.view(1, height, width, self.num_latents).permute(0, 3, 1, 2)
        return y_hat.to(self.prior_y.h.device, torch.float32).contiguous(), torch.cat([index, symbols])

    def _read_index(self, segment: bytes, height: int, width: int) -> Int[Tensor, "n"]:
        """Reads the indexes row by row: the index above selects the table of an index."""
        coder, num_priors = Decoder(segment), self.prior_y.num_priors
        rows = [torch.full((width,), num_priors, dtype=torch.int32)]
        for _ in range(height):
            row = coder.get(rows[-1], self.tables["index"])
            if row.min() < 0 or row.max() >= num_priors:
                raise CorruptFile(f"the index of a prior is beyond the {num_priors} priors of these weights")
            rows.append(row)
        coder.finish()
        return torch.cat(rows[1:])

    def _rows(self, index: Int[Tensor, "n"]) -> Int[Tensor, "k"]:
        """Index of the prior at each position -> table of each symbol, position by position."""
        return (index[:, None] * self.num_latents + torch.arange(self.num_latents, dtype=torch.int32)).flatten()

    def constants(self) -> dict[str, object]:
        return {"latent_gain": float(self.latent_gain)}
