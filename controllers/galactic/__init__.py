"""Galactic: virtual private clouds for Kubernetes pods over SRv6. docs/architecture.md is the map.

``cli``                                        the command
``operator``, ``webhook``, ``node``, ``router``  the controllers, which never import each other
``launch``, ``monitoring``                      runs a controller: logs, signals; serves its metrics and health
``linux``, ``bus``, ``kube``                   the kernel, the broker, the API server
``settings``, ``metrics``, ``validation``      settings by program, the metrics' registry, rules of objects
``crds``, ``messages``                         the kinds, the MQTT messages
``srv6``, ``names``, ``diff``, ``backoff``     SIDs, identifiers, differences of mappings, pauses
``errors``, ``refusals``, ``garbage``          the error tree, the texts of refused ADDs, garbage collections
"""

__version__: str


def __getattr__(name: str) -> str:
    """The version, read on first use: reading it takes longer than the rest of a short process."""
    if name != "__version__":
        raise AttributeError(name)
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    try:
        return version("galactic")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0.0.0"
