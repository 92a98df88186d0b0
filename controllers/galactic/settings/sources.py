"""Reads a program's settings from flags, environment and YAML file; ends the process where one is wrong."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar, get_args

from pydantic import SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    YamlConfigSettingsSource,
)

from galactic import __version__
from galactic.settings.old_names import OldNames
from galactic.settings.process import PREFIX, Settings

USAGE_ERROR: Final = 2
S = TypeVar("S", bound=Settings)


def load(kind: type[S], arguments: Sequence[str] | None = None, *, program: str = "galactic") -> S:
    """The settings of one process. Prints each mistake and exits 2 if there is one."""
    flags, config = _split(list(sys.argv[1:] if arguments is None else arguments))
    if config and not config.is_file():
        _refuse(program, f"--config {config}: no such file")
    old_names = OldNames(kind.model_fields)
    flags = old_names.arguments(flags)
    try:
        sourced = _sourced(kind, config, old_names)
        cli = CliSettingsSource[Any](sourced, root_parser=_parser(kind, program), cli_parse_args=flags)
        return sourced(_cli_settings_source=cli)
    except ValidationError as error:
        _refuse(program, *(_sentence(kind, detail) for detail in error.errors(include_url=False)))
    finally:
        sys.stderr.writelines(f"{program}: {warning}\n" for warning in old_names.warnings)


def _parser(kind: type[Settings], program: str) -> argparse.ArgumentParser:
    """The parser of the settings' flags, with --version and --config."""
    parser = argparse.ArgumentParser(
        program,
        description=kind.__doc__,
        epilog=f"A flag overrides its variable ({PREFIX}MQTT_URL for --mqtt-url), which overrides its key "
        "(mqtt_url) in the "
        f"YAML file of --config or {PREFIX}CONFIG.",
    )
    parser.add_argument("--version", action="version", version=f"{program} {__version__}")
    parser.add_argument("--config", metavar="Path", help="YAML file with further settings")
    return parser


def _sourced(kind: type[S], config: Path | None, old_names: OldNames) -> type[S]:
    """The same settings, read from the environment and that file below the flags."""

    def sources(
        _cls: type[BaseSettings], /, settings_cls: type[BaseSettings], **given: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        environment = EnvSettingsSource(settings_cls)
        environment.env_vars = old_names.variables(environment.env_vars)
        file = YamlConfigSettingsSource(settings_cls, yaml_file=config)
        keys = InitSettingsSource(settings_cls, old_names.keys(file.yaml_data))
        return given["init_settings"], environment, keys

    return type(
        kind.__name__, (kind,), {"settings_customise_sources": classmethod(sources), "__doc__": kind.__doc__}
    )


def _split(arguments: list[str]) -> tuple[list[str], Path | None]:
    """The settings' flags, and the file that ``--config`` or ``GALACTIC_CONFIG`` names."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path, default=os.environ.get(f"{PREFIX}CONFIG"))
    known, rest = parser.parse_known_args(arguments)
    return rest, Path(known.config) if known.config else None


def _sentence(kind: type[Settings], detail: Any) -> str:
    name = ".".join(map(str, detail["loc"]))
    field = kind.model_fields.get(name)
    if detail["type"] == "extra_forbidden":
        return f"{name}: no such setting; the settings are {', '.join(kind.model_fields)}"
    if not name:  # several settings, perhaps with secrets: the values are not shown
        return str(detail["msg"]).removeprefix("Value error, ")
    secret = field is not None and SecretStr in (field.annotation, *get_args(field.annotation))
    shown = re.sub(r"//[^/@]*@", "//…@", repr(detail["input"]))
    given = "" if secret else f" (given: {shown})"
    return f"{name}: {detail['msg']}{given}" + (f" - {field.description}" if field else "")


def _refuse(program: str, *sentences: str) -> NoReturn:
    sys.stderr.writelines(f"{program}: {sentence}\n" for sentence in sentences)
    raise SystemExit(USAGE_ERROR)
