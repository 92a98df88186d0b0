"""The Tiltfile as Tilt loads it: `tilt alpha tiltfile-result`, which needs no cluster and no Docker.

What `local` fetches comes from a stand-in for curl, which notes what it was asked for. Helm is of version 3: the Tilt
that can be built calls it with a flag that Helm 4 does not have.
"""

import json
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from galactic_lab.builds import build_modules
from galactic_lab.builds.build_helm import HELM3

ROOT = Path(__file__).parents[2]
CONTEXT = "kind-galactic"
MANUAL = 2
"""Tilt's number of TRIGGER_MODE_MANUAL without a first run."""
MULTUS = """\
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: kube-multus-ds, namespace: kube-system}
spec:
  selector: {matchLabels: {name: multus}}
  template:
    metadata: {labels: {name: multus}}
    spec:
      containers:
        - name: kube-multus
          image: example.net/multus-cni:snapshot-thick
          resources: {limits: {memory: "50Mi"}}
"""
"""Those parts of Multus' manifest that the Tiltfile changes, and what Tilt asks of a DaemonSet."""


class Refused(Exception):
    """Tilt's complaint."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """``resources``: Tilt's, by name. ``fetched``: the words of each call of curl. ``log``: all that Tilt prints."""

    resources: dict[str, dict[str, Any]]
    fetched: list[list[str]]
    log: str

    def objects(self, name: str) -> list[dict[str, Any]]:
        """The objects of Kubernetes that a resource applies."""
        return [
            one for one in yaml.safe_load_all(self.resources[name]["DeployTarget"].get("yaml", "")) if one
        ]

    @property
    def applied(self) -> Iterator[dict[str, Any]]:
        """The objects of all resources."""
        for name in self.resources:
            yield from self.objects(name)

    @property
    def commands(self) -> dict[str, list[str]]:
        """Those of resources that run a command on this machine."""
        targets = ((name, one["DeployTarget"].get("UpdateCmdSpec")) for name, one in self.resources.items())
        return {name: target["args"] for name, target in targets if target}


def load(folder: Path, tiltfile: Path = ROOT / "Tiltfile", context: str = CONTEXT) -> Loaded:
    """Loads it with that context of a kubeconfig chosen. ``folder``, an empty one, is the home. Raises Refused."""
    programs, asked = folder / "bin", folder / "asked"
    programs.mkdir()
    (programs / "helm").symlink_to(HELM3.ensure(_quiet) / "helm")
    curl = programs / "curl"
    (folder / "multus.yaml").write_text(MULTUS)
    curl.write_text(f'#!/bin/sh\necho "$@" >> {asked}\ncat {folder}/multus.yaml\n')
    curl.chmod(0o755)
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": context,
        "clusters": [{"name": context, "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": context, "user": {}}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    done = subprocess.run(
        [
            build_modules.tilt().ensure(_quiet) / "tilt",
            "alpha",
            "tiltfile-result",
            "--verbose",
            "--file",
            tiltfile,
        ],
        env={
            "PATH": f"{programs}:/usr/bin:/bin",
            "HOME": str(folder),
            "KUBECONFIG": str(folder / "kubeconfig"),
            "DO_NOT_TRACK": "1",
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Refused(done.stderr)
    resources = {one["Name"]: one for one in json.loads(done.stdout)["Manifests"]}
    lines = asked.read_text().splitlines() if asked.exists() else []
    return Loaded(resources, [shlex.split(line) for line in lines], done.stderr)


def _quiet(_done: float, _title: str) -> None:
    pass
