"""Galactic: virtual private clouds for Kubernetes pods over SRv6 (see docs/architecture.md)."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("galactic")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"
