"""A container runtime's calls for a configuration list, written from the CNI specification (1.1.0, sections 3 and 4):
the variables and the input that a plugin gets for each command, and the results that are cached between them. It knows
nothing of the plugin that it calls.
"""

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]
OF_LISTS = ("plugins", "disableCheck", "disableGC", "loadOnlyInlinedPlugins", "cniVersions")


class PluginError(Exception):
    """The error object that a plugin printed."""

    def __init__(self, reply: Json) -> None:
        super().__init__(f"{reply.get('code')}: {reply.get('msg')} {reply.get('details', '')}")
        self.code, self.reply = reply.get("code"), reply


@dataclass
class Runtime:
    """``cache`` is what libcni keeps in files: the result of each ADD, by network, container and interface."""

    folder: Path
    variables: dict[str, str]
    cache: dict[tuple[str, str, str], Json] = field(default_factory=dict)

    def versions(self, plugin: str, spoken: str = "1.0.0") -> list[str]:
        """The versions that VERSION lists; the runtime uses the highest that both know."""
        reply = self._run(
            plugin, {"CNI_COMMAND": "VERSION", "CNI_PATH": str(self.folder)}, {"cniVersion": spoken}
        )
        assert reply
        assert reply["cniVersion"] == spoken
        return list(reply["supportedVersions"])

    def add(self, network: Json, container: str, netns: str, ifname: str, args: str = "") -> Json:
        result: Json | None = None
        for plugin in network["plugins"]:
            given = self._input(network, plugin, result)
            result = self._run(
                plugin["type"], self._environment("ADD", container, netns, ifname, args), given
            )
            assert result is not None, "ADD prints a result"
            assert result["cniVersion"] == network["cniVersion"]
        assert result
        self.cache[network["name"], container, ifname] = result
        return result

    def delete(self, network: Json, container: str, netns: str, ifname: str, args: str = "") -> None:
        known = self.cache.get((network["name"], container, ifname))
        previous = known if network["cniVersion"] != "0.3.1" else None
        for plugin in reversed(network["plugins"]):
            given = self._input(network, plugin, previous)
            self._run(plugin["type"], self._environment("DEL", container, netns, ifname, args), given)
        self.cache.pop((network["name"], container, ifname), None)

    def check(self, network: Json, container: str, netns: str, ifname: str, args: str = "") -> None:
        if network["cniVersion"] == "0.3.1":
            raise ValueError("there is no CHECK before 0.4.0")
        previous = self.cache[network["name"], container, ifname]
        for plugin in network["plugins"]:
            given = self._input(network, plugin, previous)
            reply = self._run(
                plugin["type"], self._environment("CHECK", container, netns, ifname, args), given
            )
            assert reply is None, "CHECK prints nothing when all is well"

    def collect(self, network: Json, valid: list[tuple[str, str]]) -> None:
        """GC: first a DEL for what the cache has and the list has not, then the command where the version has it."""
        for name, container, ifname in list(self.cache):
            if name == network["name"] and (container, ifname) not in valid:
                self.delete(network, container, "", ifname)
        if network["cniVersion"] == "1.1.0":
            listed = [{"containerID": container, "ifname": ifname} for container, ifname in valid]
            for plugin in network["plugins"]:
                given = self._input(network, plugin, None) | {"cni.dev/valid-attachments": listed}
                self._run(plugin["type"], {"CNI_COMMAND": "GC", "CNI_PATH": str(self.folder)}, given)

    def status(self, network: Json) -> None:
        for plugin in network["plugins"]:
            given = self._input(network, plugin, None)
            self._run(plugin["type"], {"CNI_COMMAND": "STATUS", "CNI_PATH": str(self.folder)}, given)

    def _input(self, network: Json, plugin: Json, previous: Json | None) -> Json:
        given = {key: value for key, value in plugin.items() if key != "capabilities"}
        given |= {"name": network["name"], "cniVersion": network["cniVersion"]}
        return given | ({"prevResult": previous} if previous is not None else {})

    def _environment(
        self, command: str, container: str, netns: str, ifname: str, args: str
    ) -> dict[str, str]:
        return {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": ifname,
            "CNI_ARGS": args,
            "CNI_PATH": str(self.folder),
        }

    def _run(self, plugin: str, variables: dict[str, str], given: Json) -> Json | None:
        environment = {"PATH": os.environ["PATH"]} | self.variables | variables
        done = subprocess.run(
            [self.folder / plugin],
            input=json.dumps(given).encode(),
            env=environment,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise PluginError(json.loads(done.stdout))
        return json.loads(done.stdout) if done.stdout.strip() else None
