"""Joint denoising and compression of images.

``jdcsuite.compress(array) -> bytes`` and ``jdcsuite.decompress(data) -> array`` code one image; a damaged file raises
``jdcsuite.CorruptFile``. They are imported at first use, so that importing the package is fast.
"""

import os

__all__ = ["CorruptFile", "compress", "decompress"]

# Set before torch loads OpenMP: with idle threads that spin, a training step took 6.8 times as long beside one other
# process on two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from jdcsuite.files import compression

    return getattr(compression, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
