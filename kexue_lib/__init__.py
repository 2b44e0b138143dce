"""The library behind *Scientific Spaces, Executable*: one module per chapter, a few shared ones."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["sweep"]


def __getattr__(name: str) -> Any:
    """Bring `kexue_lib.sweeps.sweep` when it is asked for: chapters never are in need of it."""
    if name != "sweep":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kexue_lib import sweeps

    return sweeps.sweep
