"""Every setting: flag, variable, key, default, and which commands have it; and the other variables that are read."""

import ast
from collections.abc import Iterator
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from galactic import settings
from galactic.settings.old_names import OLD_NAMES, flag, variable
from reference.page import ROOT, code, page, table, text

COMMANDS: Final[dict[str, type[settings.Settings]]] = {
    "galactic-operator": settings.OperatorSettings,
    "galactic-webhook": settings.WebhookSettings,
    "galactic-node": settings.NodeSettings,
    "galactic-node-prepare": settings.NodeSettings,
    "galactic-router": settings.RouterSettings,
}
GROUPS: Final = (
    ("All controllers", settings.Settings),
    ("Node controller and router: the broker", settings.MqttSettings),
    ("galactic-operator", settings.OperatorSettings),
    ("galactic-webhook", settings.WebhookSettings),
    ("galactic-node, galactic-node-prepare", settings.NodeSettings),
    ("galactic-router", settings.RouterSettings),
)
VARIABLES: Final = {
    "GALACTIC_CONFIG": "the YAML file with further settings, as `--config`",
    "GALACTIC_DATABASE_URL": "`galactic history`: URL of the router's database",
    "GALACTIC_LAB": "name of the lab for `galactic lab …` and the stories in tests/e2e",
    "GALACTIC_LAB_LINUX": "the guest kernel of labs, as `galactic lab up --linux`: `pinned` (the default) or `newest`",
    "GALACTIC_SOCKET": "the CNI plugin: the node controller's socket, before `galactic.socket` beside the plugin",
    "KUBECONFIG": "kubeconfig of the API server; default: the pod's service account, else `~/.kube/config`",
    "KUBERNETES_SERVICE_HOST": "set by Kubernetes in pods: selects the service account",
    "GALACTIC_LAB_KUBERNETES": "the lab: a version of Kubernetes other than the newest, such as `1.34` or `1.34.4`",
    "KUBEBUILDER_ASSETS": "the lab: a folder with kube-apiserver, kube-controller-manager, kube-scheduler and etcd, "
    "used unless a version is asked for",
    "XTABLES_LOCKFILE": "the lock file that users of iptables share; default `/run/xtables.lock`",
    "XTABLES_LIBDIR": "folder of iptables' extensions; default: searched",
    "POD_NAMESPACE": "namespace of a controller, if its service account does not give it",
    "POD_NAME": "Pod of the router, the object of its Events about itself",
    "POD_UID": "UID of that Pod; without both, the Events are on the Lease `galactic-router`",
    "CLICOLOR_FORCE": "colours in `galactic`'s output, also without a terminal",
    "NO_COLOR": "no colours in `galactic`'s output",
    "XDG_CACHE_HOME": "folder of the lab's builds, in `galactic/`; default `~/.cache`",
}
OTHERS: Final = frozenset(
    {"PATH", "SHELL", "HOME", "TERM", "COLUMNS", "USER", "GALACTIC_MIGRATION_URL", "TMPDIR", "GOFLAGS"}
)
"""Variables of the system, and those between Galactic's own processes."""


def pages() -> dict[str, str]:
    who = (
        "For those who run the controllers: every setting with its three forms and its default. A flag overrides its "
        "variable, which overrides its key in the YAML file of `--config` (`GALACTIC_CONFIG`), which overrides the "
        "default. A bad value or an unknown key ends the process at start; the message names the setting and the "
        "allowed values. `COMMAND --help` lists the same settings, `--version` prints the version."
    )
    parts, known = [], set[str]()
    for title, kind in GROUPS:
        own = {name: field for name, field in kind.model_fields.items() if name not in known}
        if issubclass(kind, settings.MqttSettings) and kind is not settings.MqttSettings:
            own = {
                name: field for name, field in own.items() if name not in settings.MqttSettings.model_fields
            }
        if kind in (settings.Settings, settings.MqttSettings):
            known |= own.keys()
        parts.append(
            f"## {title}\n\n"
            + table(("setting", "value", "default", "meaning"), map(_row, own, own.values()))
        )
    found = variables()
    if strange := found - VARIABLES.keys():
        raise SystemExit(
            f"variables without a meaning in tools/reference/settings.py: {', '.join(sorted(strange))}"
        )
    parts.append(
        "## Old names\n\nThese still work, each with one warning on standard error. Where both names are given in one "
        "source, the new one counts.\n\n"
        + table(
            ("old", "new", "programs"),
            ((_names(old), _names(new), _users(new)) for old, new in OLD_NAMES.items()),
        )
    )
    rows = [(code(name), VARIABLES[name]) for name in sorted(VARIABLES)]
    parts.append("## Further environment variables\n\n" + table(("variable", "meaning"), rows))
    return {"settings.md": page("Settings", who, *parts, source="controllers/galactic/settings")}


def _row(name: str, field: Any) -> tuple[str, ...]:
    return (
        _names(name),
        _value(field),
        _default(field.get_default(call_default_factory=True)),
        text(field.description or ""),
    )


def _names(name: str) -> str:
    return "<br>".join(map(code, (flag(name), variable(name), name)))


def _users(name: str) -> str:
    """The programs that have such a setting."""
    if name in settings.Settings.model_fields:
        return "all"
    return ", ".join(code(program) for program, kind in COMMANDS.items() if name in kind.model_fields)


def _value(field: Any) -> str:
    limits = []
    for metadata in field.metadata:
        for name, words in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("max_length", "length ≤")):
            if (limit := getattr(metadata, name, None)) is not None:
                limits.append(f"{words} {limit}")
    return ", ".join((_type(field.annotation), *limits))


def _type(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(code(value) for value in get_args(annotation))
    if inner := [one for one in get_args(annotation) if one is not type(None)]:
        return _type(inner[0])
    names = {"bool": "`true`, `false`", "int": "integer", "float": "number", "str": "text", "Path": "path"}
    names |= {"IPv4Address": "IP address"}  # of either family
    if annotation is SecretStr:
        return "text, kept out of logs"
    return names.get(
        annotation.__name__, "IPv6 network" if "Network" in annotation.__name__ else annotation.__name__
    )


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    if value is None or value in ("", {}):
        return "none"
    return code(str(value).lower() if isinstance(value, bool) else value)


def variables() -> set[str]:
    """Environment variables that the code reads by name, or to which typer's options are bound."""
    found = set()
    for folder in (ROOT / "controllers" / "galactic", ROOT / "src"):
        for path in folder.rglob("*.py"):
            found |= set(_read(ast.parse(path.read_text())))
    return found - OTHERS


def _read(tree: ast.AST) -> Iterator[str]:
    constants = {
        target.id: node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        name: ast.expr | None = None
        if (
            isinstance(node, ast.Subscript)
            and isinstance(node.value, ast.Attribute)
            and ast.unparse(node.value) == "os.environ"
        ):
            name = node.slice
        elif isinstance(node, ast.Call) and node.args:
            named = isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "getenv", "setdefault")
            if named and ast.unparse(node.func) in ("os.environ.get", "os.getenv", "os.environ.setdefault"):
                name = node.args[0]
        elif isinstance(node, ast.keyword) and node.arg == "envvar":
            name = node.value
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            yield name.value
        elif isinstance(name, ast.Name) and isinstance(constants.get(name.id), str):
            yield str(constants[name.id])
        elif isinstance(name, ast.JoinedStr) and ast.unparse(name).startswith("f'{PREFIX}"):
            yield settings.PREFIX + str(name.values[-1].value)  # type: ignore[attr-defined]
