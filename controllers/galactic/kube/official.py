"""The asyncio half of the official client.

``kubernetes/__init__.py`` imports the other half too, with requests and oauthlib: 260 modules that no controller uses,
a tenth of a start and 9 MiB of RSS in every process. So the package is known by its path, and its own code does not
run; each of its modules can be imported as ever.
"""

import sys
from importlib.util import find_spec, module_from_spec

if "kubernetes" not in sys.modules and (spec := find_spec("kubernetes")):
    sys.modules["kubernetes"] = module_from_spec(spec)

from kubernetes.aio import client, config

__all__ = ["client", "config"]
