# ruff: noqa: A002, PLR0917  (Tilt's names and order)
"""Tilt's builtins as far as our Tiltfile uses them: each records its call, and refuses arguments that Tilt has not.

Names and arguments are those of Tilt's API reference, https://docs.tilt.dev/api.html.
"""

import inspect
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import starlark

ROOT = Path(__file__).parents[2]
MULTUS = """\
kind: DaemonSet
metadata: {name: kube-multus-ds}
spec:
  template:
    spec:
      containers:
        - image: example.net/multus-cni:snapshot-thick
          resources: {limits: {memory: "50Mi"}}
"""
"""Those parts of Multus' manifest that the Tiltfile changes."""


class Signatures:
    """The parameters of each builtin; their effects are not modelled."""

    def allow_k8s_contexts(self, contexts): ...
    def update_settings(
        self, max_parallel_updates=3, k8s_upsert_timeout_secs=30, suppress_unused_image_warnings=None
    ): ...
    def local(self, command, quiet=False, command_bat="", echo_off=False, env=None, dir="", stdin=None): ...
    def blob(self, contents): ...
    def k8s_yaml(self, yaml, allow_duplicates=False): ...
    def k8s_resource(
        self, workload="", new_name="", port_forwards=(), extra_pod_selectors=(), trigger_mode=None,
        resource_deps=(), objects=(), auto_init=True, pod_readiness="", links=(), labels=(), discovery_strategy="",
    ): ...  # fmt: skip
    def local_resource(
        self, name, cmd="", deps=None, trigger_mode=None, resource_deps=(), ignore=(), auto_init=True, serve_cmd="",
        cmd_bat="", serve_cmd_bat="", allow_parallel=False, links=(), labels=(), env=None, serve_env=None,
        readiness_probe=None, dir="", serve_dir="",
    ): ...  # fmt: skip
    def docker_build(
        self, ref, context, build_args=None, dockerfile="Dockerfile", dockerfile_contents="", live_update=(),
        match_in_env_vars=False, ignore=(), only=(), entrypoint=(), target="", ssh="", network="", secret="",
        extra_tag="", container_args=None, cache_from=(), pull=False, platform="", extra_hosts=(),
    ): ...  # fmt: skip
    def fall_back_on(self, files): ...
    def sync(self, local_path, remote_path): ...
    def run(self, cmd, trigger=(), echo_off=False): ...
    def helm(
        self, path_to_chart, name="", namespace="", values=(), set=(), kube_version="", skip_crds=False
    ): ...  # fmt: skip


class Tiltfile:
    """The calls that running a Tiltfile makes, by builtin, each as its arguments by name."""

    def __init__(self, text: str) -> None:
        self.calls: dict[str, list[dict[str, Any]]] = defaultdict(list)
        module = starlark.Module()
        for name, method in inspect.getmembers(Signatures(), inspect.ismethod):
            module.add_callable(name, self._recorder(name, inspect.signature(method)))
        text = f"TRIGGER_MODE_MANUAL = 'manual'\n{text}"
        starlark.eval(
            module,
            starlark.parse("Tiltfile", text, starlark.Dialect.extended()),
            starlark.Globals.standard(),
        )

    def _recorder(self, name: str, signature: inspect.Signature) -> Callable[..., Any]:
        def record(*words: Any, **given: Any) -> Any:
            arguments = signature.bind(*words, **given).arguments
            self.calls[name].append(arguments)
            if name == "local":
                return MULTUS
            return arguments["contents"] if name == "blob" else {name: arguments}

        return record

    def only(self, name: str) -> dict[str, Any]:
        """The arguments of the one call there is."""
        (call,) = self.calls[name]
        return call

    def resources(self) -> dict[str, dict[str, Any]]:
        """Of k8s_resource and local_resource, by name."""
        cluster = {call["workload"]: call for call in self.calls["k8s_resource"]}
        return cluster | {call["name"]: call for call in self.calls["local_resource"]}
