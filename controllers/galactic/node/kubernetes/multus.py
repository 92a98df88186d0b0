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
LOOK_SECONDS: Final = 1.0
SUFFIXES: Final = (".conf", ".conflist", ".json")
"""What libcni takes for a network configuration."""
CONDITION: Final = "MultusConfigured"


class MultusConfiguration:
    """Looks at ``folder`` every LOOK_SECONDS; None: it is not looked at, and there is no condition."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._seen: object = None
        self._finding: ConditionState | None = None

    def findings(self) -> tuple[ConditionState, ...]:
        """The condition, as it was at the last look."""
        return (self._finding,) if self._finding else ()

    async def run(self, changed: Callable[[], object]) -> None:
        """For ever. ``changed`` is called after the condition turned."""
        if self._folder is None:
            return
        while True:
            if self.look(self._folder):
                changed()
            await asyncio.sleep(LOOK_SECONDS)

    def look(self, folder: Path) -> bool:
        """Whether the condition turned. Files are read only where their names, times or sizes differ."""
        before = self._finding
        try:
            seen = sorted((path.name, *_state(path)) for path in folder.iterdir() if path.suffix in SUFFIXES)
            if seen == self._seen and before is not None:
                return False
            self._finding = judge({name: (folder / name).read_bytes() for name, *_ in seen}, str(folder))
            self._seen = seen
        except OSError as error:
            if isinstance(error, FileNotFoundError) and folder.is_dir():
                return False  # a file went in between: the next look finds what is left
            told = (
                f"{folder} cannot be read ({error.strerror}); see cni_conf_dir (node.cniConfDir in the chart)"
            )
            self._seen, self._finding = None, ConditionState(CONDITION, False, "Unreadable", told)
        if before == self._finding:
            return False
        assert self._finding
        level = log.info if self._finding.status else log.warning
        level("network configuration", multus=self._finding.status, message=self._finding.message)
        return True


def judge(files: Mapping[str, bytes], folder: str) -> ConditionState:
    """The condition that follows from the configurations, by file name. As the runtime, it passes over invalid ones."""
    for name in sorted(files):
        if types := _types(files[name]):
            if any("multus" in each for each in types):
                return ConditionState(
                    CONDITION, True, "Configured", f"pods start with {folder}/{name}, which is Multus'"
                )
            told = (
                f"pods start with {folder}/{name}, which is not Multus', and get no VPC interface; "
                "is Multus running on this node?"
            )
            return ConditionState(CONDITION, False, "MultusNotFirst", told)
    told = f"there is no network configuration in {folder}; are Multus and the default network running on this node?"
    return ConditionState(CONDITION, False, "NoConfiguration", told)


def _types(text: bytes) -> tuple[str, ...]:
    """The plugins that a configuration calls; none: the runtime does not take it."""
    try:
        configuration: Any = msgspec.json.decode(text)
        plugins = configuration.get("plugins", [configuration])
        return tuple(str(each["type"]) for each in plugins)
    except (msgspec.DecodeError, AttributeError, KeyError, TypeError):
        return ()


def _state(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size
