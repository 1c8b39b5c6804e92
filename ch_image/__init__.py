"""ch-image: container images built, exchanged and run with no privilege at all."""

__version__ = "0.1.0"
