"""The chart's roles in a lab: its controllers have the same rights as in a cluster.

Operator, routers and webhooks have the very names of the chart's ServiceAccounts. Nodes cannot share one, since
a token of the lab carries no node's name: each has a user of its own, in a group that has the node's role.
"""

import json
import subprocess
from pathlib import Path
from typing import Any, Final

from galactic.errors import Unreachable
from galactic_lab.state import NAMESPACE

NODES: Final = "galactic:nodes"
"""The group of all node controllers."""
ACCOUNTS: Final = f"system:serviceaccounts:{NAMESPACE}"
"""The group of all ServiceAccounts of Galactic's namespace."""


def account(component: str) -> str:
    """The user name of a ServiceAccount of the chart."""
    return f"system:serviceaccount:{NAMESPACE}:galactic-{component}"


def manifest(helm: Path, chart: Path, version: tuple[int, int]) -> str:
    """The chart's roles and bindings for an API server of that version, and the binding of ``NODES``. YAML."""
    return f"{rendered(helm, chart, version, 'rbac')}\n---\n{json.dumps(_binding())}\n"


def rendered(helm: Path, chart: Path, version: tuple[int, int], template: str, *more: str) -> str:
    """A template of the chart, for an API server of that version. YAML."""
    only = (f"--show-only=templates/{template}.yaml", f"--kube-version={version[0]}.{version[1]}.0")
    done = subprocess.run(
        [str(helm), "template", "galactic", str(chart), f"--namespace={NAMESPACE}", *only, *more],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Unreachable("helm", done.stderr.strip())
    return done.stdout


def _binding() -> dict[str, Any]:
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "galactic-node"}
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "galactic-lab-nodes"},
        "roleRef": role,
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": NODES}],
    }


def audit_policy() -> dict[str, Any]:
    """The audit policy: the API server logs each request of Galactic's controllers, without its body."""
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata", "userGroups": [ACCOUNTS, NODES]}, {"level": "None"}],
    }
