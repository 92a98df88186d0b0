"""No part of the router takes more than five others: one that needs more is two parts."""

import importlib
import inspect
import pkgutil
from dataclasses import is_dataclass

import msgspec
import pytest

from galactic import router

MOST = 5


def parts() -> list[type]:
    """Every class of the router that is made of others: no value, no error."""
    long = set()
    for module in pkgutil.walk_packages(router.__path__, "galactic.router."):
        for _, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            value = is_dataclass(kind) or issubclass(kind, msgspec.Struct | tuple | Exception)
            if kind.__module__.startswith("galactic.router.") and not value and "__init__" in vars(kind):
                long.add(kind)
    return sorted(long, key=lambda kind: (kind.__module__, kind.__name__))


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.__name__) for kind in parts()])
def test_constructors(kind: type) -> None:
    assert len(inspect.signature(kind).parameters) <= MOST
