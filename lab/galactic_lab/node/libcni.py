"""Calling CNI plugins the way libcni does (CNI specification 1.0, sections 2 to 4)."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from galactic.errors import GalacticError, Rejected

TIMEOUT_SECONDS: Final = 120.0
Config = dict[str, Any]


class PluginFailed(GalacticError):
    """A plugin failed; the message has its error."""


def conflist(text: str, name: str) -> Config:
    """A configuration list, from a list or a single configuration; ``name`` if it has no name. Raises Rejected."""
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise Rejected(f"not JSON: {error}", field=f"config of {name}") from error
    if not isinstance(config, dict):
        raise Rejected("a JSON object is expected", field=f"config of {name}")
    if "plugins" not in config:
        plugin = {key: value for key, value in config.items() if key not in ("name", "cniVersion")}
        config = {key: config[key] for key in ("name", "cniVersion") if key in config} | {"plugins": [plugin]}
    config["name"] = config.get("name") or name
    config["cniVersion"] = config.get("cniVersion") or "0.3.1"
    if not config["plugins"] or not all(
        isinstance(one, dict) and one.get("type") for one in config["plugins"]
    ):
        raise Rejected("every plugin needs a type", field=f"config of {name}")
    return dict(config)


@dataclass(frozen=True, slots=True)
class Attachment:
    """One interface of one container, as the runtime names it to plugins."""

    container: str
    netns: str
    interface: str
    arguments: str
    runtime: Mapping[str, Any]

    def environment(self, command: str, path: str) -> dict[str, str]:
        """The CNI_* variables."""
        return {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": self.container,
            "CNI_NETNS": self.netns,
            "CNI_IFNAME": self.interface,
            "CNI_ARGS": self.arguments,
            "CNI_PATH": path,
        }


class Runtime:
    """Finds plugins in ``folders`` and calls them."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._path = ":".join(map(str, folders))

    def add(self, config: Config, attachment: Attachment) -> Config:
        """The last plugin's result. Raises PluginFailed; the caller then owes a ``delete``."""
        result: Config | None = None
        for plugin in config["plugins"]:
            result = self._call("ADD", config, plugin, attachment, result)
        return result or {}

    def delete(self, config: Config, attachment: Attachment, result: Config | None) -> None:
        """Calls DEL of every plugin, in reverse order. Raises PluginFailed."""
        for plugin in reversed(config["plugins"]):
            self._call("DEL", config, plugin, attachment, result)

    def _find(self, kind: str) -> Path:
        if "/" in kind:
            raise PluginFailed(f"a plugin's type is a file name, not {kind!r}")
        for folder in self._folders:
            if os.access(folder / kind, os.X_OK):
                return folder / kind
        raise PluginFailed(f"failed to find plugin {kind!r} in path [{self._path}]")

    def _call(
        self, command: str, config: Config, plugin: Config, attachment: Attachment, previous: Config | None
    ) -> Config | None:
        body = {**plugin, "name": config["name"], "cniVersion": config["cniVersion"]}
        capabilities = body.pop("capabilities", None) or {}
        runtime = {key: value for key, value in attachment.runtime.items() if capabilities.get(key)}
        if runtime:
            body["runtimeConfig"] = runtime
        if previous is not None:
            body["prevResult"] = previous
        path = self._find(plugin["type"])
        try:
            done = subprocess.run(
                [str(path)],
                input=json.dumps(body).encode(),
                capture_output=True,
                env={"PATH": os.environ.get("PATH", "")} | attachment.environment(command, self._path),
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as reason:
            problem = f"{plugin['type']} did not end within {TIMEOUT_SECONDS:.0f} s"
            raise PluginFailed(problem) from reason
        text = done.stdout.decode(errors="replace")
        if done.returncode != 0:
            raise PluginFailed(
                f"plugin {plugin['type']} failed ({command.lower()}): {_complaint(text, done.stderr)}"
            )
        if command == "DEL":
            return None
        try:
            result = json.loads(text)
        except json.JSONDecodeError as reason:
            raise PluginFailed(f"plugin {plugin['type']} printed no result: {text[:200]!r}") from reason
        return dict(result)


def _complaint(out: str, error: bytes) -> str:
    """A plugin's error object, else its output."""
    try:
        reply = json.loads(out)
        return f"{reply['msg']} (code {reply.get('code')})" + (
            f": {reply['details']}" if reply.get("details") else ""
        )
    except (json.JSONDecodeError, KeyError, TypeError):
        return (error.decode(errors="replace").strip() or out.strip() or "no message")[-1000:]
