"""Old names of settings: they work as flag, variable and key, each with one warning that gives the new name."""

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Final, TypeVar

from galactic.settings.process import PREFIX

OLD_NAMES: Final[Mapping[str, str]] = {
    "srv6_space": "srv6_block",
    "guard": "drop_external_sids",
    "name": "webhook_name",
    "url": "webhook_url",
}
"""Old name to new name. An old name counts only in a program that has the new one."""
V = TypeVar("V")


def flag(name: str) -> str:
    """``--mqtt-url`` for ``mqtt_url``."""
    return f"--{name.replace('_', '-')}"


def variable(name: str) -> str:
    """``GALACTIC_MQTT_URL`` for ``mqtt_url``."""
    return f"{PREFIX}{name.upper()}"


class OldNames:
    """Replaces the old names of one program's settings and collects a warning for each.

    Sources keep their order: an old flag goes before the new variable. Within one source the new name counts.
    """

    def __init__(self, fields: Container[str]) -> None:
        self._new = {old: new for old, new in OLD_NAMES.items() if new in fields and old not in fields}
        self._warnings: dict[str, None] = {}

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(self._warnings)

    def arguments(self, arguments: Sequence[str]) -> list[str]:
        """The command line with new flags only."""
        new_flags = {flag(old): flag(new) for old, new in self._new.items()}
        given = {argument.partition("=")[0] for argument in arguments}
        replaced, rest = list[str](), iter(arguments)
        for argument in rest:
            name, equals, value = argument.partition("=")
            new = new_flags.get(name)
            if new is None:
                replaced.append(argument)
            elif self._counts(name, new, ignored=new in given):
                replaced.append(new + equals + value)
            elif not equals:
                next(rest, None)  # the value of the ignored flag
        return replaced

    def variables(self, environment: Mapping[str, V]) -> dict[str, V]:
        """The environment, names in lower case, with new variables only."""
        return self._replaced(environment, lambda name: variable(name).lower(), str.upper)

    def keys(self, file: Mapping[str, V]) -> dict[str, V]:
        """The YAML file with new keys only."""
        return self._replaced(file, str, str)

    def _replaced(
        self, values: Mapping[str, V], spelled: Callable[[str], str], shown: Callable[[str], str]
    ) -> dict[str, V]:
        replaced = dict(values)
        for old, new in ((spelled(old), spelled(new)) for old, new in self._new.items()):
            if old in replaced:
                value = replaced.pop(old)
                if self._counts(shown(old), shown(new), ignored=new in replaced):
                    replaced[new] = value
        return replaced

    def _counts(self, old: str, new: str, *, ignored: bool) -> bool:
        """Whether the old name's value counts. Records the warning."""
        ending = f"ignored, because {new} is given too" if ignored else f"use {new}"
        self._warnings[f"{old} is deprecated: {ending}"] = None
        return not ignored
