"""Whether Multus is configured on this node, so that the next sandbox gets its VPC interface.

The container runtime takes the first network configuration of a folder, by name. Multus' thick daemon writes one that
sorts first, and removes it when it ends: the runtime then takes the default network's, and never calls Multus.
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from galactic.node.state.condition import ConditionState

log = structlog.get_logger(__name__)
CHECK_SECONDS: Final = 1.0
SUFFIXES: Final = (".conf", ".conflist", ".json")
"""Of the files that libcni reads as network configurations."""
CONDITION: Final = "MultusConfigured"


class MultusConfiguration:
    """Checks ``folder`` every CHECK_SECONDS; None: it is not checked, and there is no condition."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._files: object = None  # as they were when they were last read
        self._condition: ConditionState | None = None

    def conditions(self) -> tuple[ConditionState, ...]:
        """The condition, as of the last check."""
        return (self._condition,) if self._condition else ()

    async def run(self, changed: Callable[[], object]) -> None:
        """For ever. Calls ``changed`` after the condition turned."""
        if self._folder is None:
            return
        while True:
            if self.check(self._folder):
                changed()
            await asyncio.sleep(CHECK_SECONDS)

    def check(self, folder: Path) -> bool:
        """Whether the condition turned. Files are read only where their names, times or sizes differ."""
        before = self._condition
        try:
            files = sorted((path.name, *_state(path)) for path in folder.iterdir() if path.suffix in SUFFIXES)
            if files == self._files and before is not None:
                return False
            texts = {name: (folder / name).read_bytes() for name, *_ in files}
            self._files, self._condition = files, condition(texts, str(folder))
        except OSError as error:
            if isinstance(error, FileNotFoundError) and folder.is_dir():
                return False  # a file was removed in between: the next check reads the others
            message = (
                f"{folder} cannot be read ({error.strerror}); see cni_conf_dir (node.cniConfDir in the chart)"
            )
            self._files, self._condition = None, ConditionState(CONDITION, False, "Unreadable", message)
        if before == self._condition:
            return False
        assert self._condition
        level = log.info if self._condition.status else log.warning
        level("network configuration checked", multus=self._condition.status, message=self._condition.message)
        return True


def condition(texts: Mapping[str, bytes], folder: str) -> ConditionState:
    """The condition that follows from the configurations, by file name. Invalid ones are skipped, as by the runtime."""
    for name in sorted(texts):
        if types := _types(texts[name]):
            if any("multus" in plugin for plugin in types):
                message = f"pods start with {folder}/{name}, which is Multus'"
                return ConditionState(CONDITION, True, "Configured", message)
            message = (
                f"pods start with {folder}/{name}, which is not Multus', and get no VPC interface; "
                "is Multus running on this node?"
            )
            return ConditionState(CONDITION, False, "MultusNotFirst", message)
    message = f"there is no network configuration in {folder}; are Multus and the default network running on this node?"
    return ConditionState(CONDITION, False, "NoConfiguration", message)


def _types(text: bytes) -> tuple[str, ...]:
    """The plugins that a configuration calls; none where the runtime skips it."""
    try:
        configuration: Any = msgspec.json.decode(text)
        plugins = configuration.get("plugins", [configuration])
        return tuple(str(plugin["type"]) for plugin in plugins)
    except (msgspec.DecodeError, AttributeError, KeyError, TypeError):
        return ()


def _state(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
