"""The library behind *Scientific Spaces, Executable*: one module per chapter, a few shared ones."""

__version__ = "0.1.0"
