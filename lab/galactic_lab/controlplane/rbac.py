"""The chart's roles in a lab: its controllers may do what they may in a cluster, and no more.

Operator, routers and webhooks have the very names of the chart's ServiceAccounts. Nodes cannot share one here, since
tokens in a lab do not tell a node's name: each has a user of its own, in a group that has the node's role.
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
"""The group that the API server puts all ServiceAccounts of our namespace into."""


def account(component: str) -> str:
    """The user that a ServiceAccount of the chart is."""
    return f"system:serviceaccount:{NAMESPACE}:galactic-{component}"


def manifest(helm: Path, chart: Path, version: tuple[int, int]) -> str:
    """Roles and bindings as the chart makes them for an API server of that version, and the group's. YAML."""
    only = ("--show-only=templates/rbac.yaml", f"--kube-version={version[0]}.{version[1]}.0")
    done = subprocess.run(
        [str(helm), "template", "galactic", str(chart), f"--namespace={NAMESPACE}", *only],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Unreachable("helm", done.stderr.strip())
    return f"{done.stdout}\n---\n{json.dumps(_binding())}\n"


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
    """What the API server writes down: each request of a controller of ours, without its body."""
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata", "userGroups": [ACCOUNTS, NODES]}, {"level": "None"}],
    }
