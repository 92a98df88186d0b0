"""Galactic: virtual private clouds for Kubernetes pods over SRv6 (see docs/architecture.md)."""

__version__: str


def __getattr__(name: str) -> str:
    """The version, looked for when it is asked for: that takes longer than all that some short processes do."""
    if name != "__version__":
        raise AttributeError(name)
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    try:
        return version("galactic")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0.0.0"
