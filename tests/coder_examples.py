"""Coding and decoding of whole segments, and a check of integer tables."""

from __future__ import annotations

import torch

from jdcsuite.entropy.coder import Decoder, Encoder, Tables
from jdcsuite.entropy.priors import Gaussian

UNIT = 2.0**-16  # smallest probability of a table
FAR = 2**22  # steps: farther from its mean than any latent of an image
GAUSSIAN = Gaussian().tables()


def check_integer_tables(tables: Tables) -> None:
    """Every row strictly increases from 0 to 2^16 and is then zero."""
    assert tables.cdf.dtype == tables.length.dtype == tables.offset.dtype == torch.int32
    for row, length in zip(tables.cdf, tables.length.tolist(), strict=True):
        used = row[:length]
        assert used[0] == 0 and used[-1] == 2**16 and (used.diff() > 0).all()
        assert (row[length:] == 0).all()


def written(*calls: tuple) -> bytes:
    encoder = Encoder()
    for symbols, indexes, tables, shifts in calls:
        encoder.put(symbols, indexes, tables, shifts=shifts)
    return encoder.segment()


def read(segment: bytes, *calls: tuple) -> list[list[int]]:
    decoder = Decoder(segment)
    out = [decoder.get(indexes, tables, shifts=shifts).tolist() for _, indexes, tables, shifts in calls]
    decoder.finish()
    return out
