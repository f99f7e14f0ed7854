"""Joint denoising and compression of images.

``jdcsuite.compress(array) -> bytes`` and ``jdcsuite.decompress(data) -> array`` code one picture;
``jdcsuite.CorruptFile`` is what every file that is not whole ends in. They are loaded at first use, so that
importing the package stays light.
"""

import os

__all__ = ["CorruptFile", "compress", "decompress"]

# Before torch loads its OpenMP: idle threads that spin made a training step 6.8 times slower beside one other process
# on two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from jdcsuite.files import compression

    return getattr(compression, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
