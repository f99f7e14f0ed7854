"""A CompressAI model as one of ours: the field's reference codecs on the same data, criterion, task and file.

Begaint et al., "CompressAI" (arXiv 2011.03029, 2020). Their entropy parameters stay floating point between bits and
symbols, so a file decodes for certain only on the kind of machine that wrote it.
"""

from __future__ import annotations

import compressai.models
import torch
from compressai.entropy_models import EntropyModel
from compressai.models import CompressionModel
from compressai.models.google import get_scale_table
from jaxtyping import Float
from torch import Tensor

from jdcsuite.entropy.coder import Tables
from jdcsuite.entropy.container import CorruptFile
from jdcsuite.models.codec import Codec
from jdcsuite.types import Output, UserError

# A weights file names one of these; nothing else of the library is looked up by a file's words.
ARCHITECTURES = ("ScaleHyperprior", "MeanScaleHyperprior", "JointAutoregressiveHierarchicalPriors")
TABLES = ("_quantized_cdf", "_offset", "_cdf_length")


class DropIn(Codec):
    """``architecture``: name of a class of `compressai.models` with a hyperprior, as MeanScaleHyperprior.
    ``num_channels``, ``num_latents``: its N and M.

    differs from CompressAI: the bottleneck's quantiles are found by bisection when the tables are built, not
    learned by an optimiser of their own.
    """

    stride = 64
    segment_names = ("y", "z")

    def __init__(self, *, architecture: str, num_channels: int, num_latents: int) -> None:
        super().__init__()
        if architecture not in ARCHITECTURES:
            raise UserError(f"model.architecture={architecture} is unknown: choose one of {', '.join(ARCHITECTURES)}")

        self.net: CompressionModel = getattr(compressai.models, architecture)(num_channels, num_latents)
        self.net.entropy_bottleneck.quantiles.requires_grad_(False)
        self.net.gaussian_conditional.scale_table = get_scale_table()
        self._keep_tables_apart()

    def _keep_tables_apart(self) -> None:
        for part in self._priors().values():
            # these change their shape when tables are built: they travel as tables, not as weights
            part._non_persistent_buffers_set.update(TABLES)

    def _priors(self) -> dict[str, EntropyModel]:
        return {name: m for name, m in self.net.named_modules() if isinstance(m, EntropyModel)}

    def forward(
        self,
        x: Float[Tensor, "b 3 h w"],
        *,
        sigma: Float[Tensor, "b"] | None = None,
        bpp_noisy: Float[Tensor, "b"] | None = None,
    ) -> Output:
        height, width = x.shape[-2:]
        with torch.autocast(x.device.type, enabled=False):
            made = self.net(self.pad(x).float())
        return Output(x_hat=made["x_hat"][..., :height, :width], likelihoods=made["likelihoods"])

    def make_tables(self) -> dict[str, Tables]:
        self.net.update(force=True, update_quantiles=True)
        return {
            name.replace(".", "-"): Tables(m._quantized_cdf, m._cdf_length, m._offset)
            for name, m in self._priors().items()
        }

    def load_table_state(self, state: dict[str, Tensor]) -> None:
        super().load_table_state(state)
        for name, prior in self._priors().items():
            tables = self.tables[name.replace(".", "-")]
            prior._quantized_cdf, prior._cdf_length, prior._offset = tables.cdf, tables.length, tables.offset

    def encode(self, x: Float[Tensor, "1 3 h w"], *, h: int) -> list[bytes]:
        return [strings[0] for strings in self.net.compress(x)["strings"]]

    def decode(self, segments: list[bytes], *, height: int, width: int, h: int) -> Float[Tensor, "1 3 h w"]:
        if len(segments) != 2:
            raise CorruptFile(f"{len(segments)} segments where this codec writes 2")
        return self.net.decompress([[s] for s in segments], (height // 64, width // 64))["x_hat"]
