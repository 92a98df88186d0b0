"""Installs the bundle on a node, or removes it; runs with the bundle's own interpreter, and needs nothing else.

    install DIRECTORY [--as PATH] [--socket PATH]
    install --remove DIRECTORY

DIRECTORY is the node's CNI directory as it is mounted here; ``--as`` is its path on the node, where that is not
/opt/cni/bin. ``--socket`` is the node controller's socket, where that is not /var/run/galactic/agent.sock.

The new bundle is written beside the old one and becomes the hook's with one rename, so that a runtime that starts the
hook finds the old one or the new one, whole. The bundle that it replaces stays until the next installation: a hook that
is running has files of it still to open.
"""

import os
import sys

HOME = os.path.dirname(os.path.abspath(sys.executable))
BIN_DIR, HOLDER, HOOK = "/opt/cni/bin", ".galactic", "galactic"
PARTIAL = ".partial"


class Unusable(Exception):
    """The arguments or the directory cannot be used."""


def main() -> int:
    """The exit code."""
    try:
        options = _options(sys.argv[1:])
        if options["--remove"]:
            remove(options["--remove"])
        else:
            stamp = install(options[""], options["--as"] or BIN_DIR, options["--socket"])
            _print(1, f"installed {HOOK} {stamp} in {options['']}")
    except (Unusable, OSError) as error:
        _print(2, f"galactic: {error}")
        return 1
    return 0


def _options(arguments: list[str]) -> dict[str, str]:
    options = dict.fromkeys(("", "--as", "--socket", "--remove"), "")
    name = ""
    for argument in arguments:
        if argument in options and argument:
            name = argument
        elif argument.startswith("-") or options[name]:
            raise Unusable(f"{argument!r} is not an argument of this program; {_usage()}")
        else:
            options[name], name = argument, ""
    if bool(options[""]) == bool(options["--remove"]):
        raise Unusable(f"give one directory; {_usage()}")
    for name in ("--as", "--socket"):
        if options[name] and not options[name].startswith("/"):
            raise Unusable(f"{name} {options[name]} is not an absolute path")
    return options


def _usage() -> str:
    return "install DIRECTORY [--as PATH] [--socket PATH], or install --remove DIRECTORY"


def install(directory: str, bin_dir: str, socket: str) -> str:
    """The hook in ``directory`` is this bundle. Its stamp. Installing again changes nothing."""
    stamp = os.path.basename(HOME)
    holder = f"{directory}/{HOLDER}"
    os.makedirs(holder, 0o755, exist_ok=True)
    built = _bin_dir_of(f"{HOME}/python3")
    bound = f"{bin_dir.rstrip('/') or '/'}"
    before = _current(directory)
    if not _same(f"{holder}/{stamp}", bound):
        _remove(f"{holder}/{stamp}{PARTIAL}")
        _copy(HOME, f"{holder}/{stamp}{PARTIAL}", built, bound)
        if os.path.lexists(
            f"{holder}/{stamp}"
        ):  # of the same content, but bound to another place, or damaged
            os.rename(f"{holder}/{stamp}", f"{holder}/{stamp}.old")
        os.rename(f"{holder}/{stamp}{PARTIAL}", f"{holder}/{stamp}")
    _replace_socket(f"{directory}/{HOOK}.socket", socket)
    script = (
        f"#!{bound}/{HOLDER}/{stamp}/python3"
        + _read(f"{HOME}/install").decode().partition(f"/{stamp}/python3")[2]
    )
    _replace(f"{directory}/{HOOK}", script.replace("galactic_install", "galactic_hook").encode(), 0o755)
    _link(f"{stamp}/install", f"{holder}/install")
    for name in os.listdir(holder):
        if name not in ("install", stamp, before):
            _remove(f"{holder}/{name}")
    _clear(directory)
    return stamp


def remove(directory: str) -> None:
    """Removes everything of ours from ``directory``, the hook first. A hook of another program stays."""
    if os.path.lexists(f"{directory}/{HOOK}") and not _current(directory):
        raise Unusable(f"{directory}/{HOOK} was not installed by this program")
    for path in (f"{directory}/{HOOK}", f"{directory}/{HOOK}.socket", f"{directory}/{HOLDER}"):
        _remove(path)
    _clear(directory)


def _clear(directory: str) -> None:
    """Removes the partial files of an installer that was killed."""
    for name in os.listdir(directory):
        if name.startswith(f"{HOOK}.") and name.endswith(PARTIAL):
            _remove(f"{directory}/{name}")


def _current(directory: str) -> str:
    """The stamp of the bundle that the hook runs with; "" if there is no hook of ours."""
    try:
        first = _read(f"{directory}/{HOOK}").partition(b"\n")[0].decode(errors="replace")
    except OSError:
        return ""
    _, found, rest = first.partition(f"/{HOLDER}/")
    return rest.partition("/")[0] if found else ""


def _bin_dir_of(python: str) -> str:
    """The directory that an interpreter was bound to."""
    script = _read(os.path.dirname(python) + "/install").partition(b"\n")[0].decode()
    return script.removeprefix("#!").partition(f"/{HOLDER}/")[0]


def _same(there: str, bound: str) -> bool:
    """Whether the bundle is installed already, whole, and bound to that directory."""
    try:
        return _bin_dir_of(f"{there}/python3") == bound and _sizes(there) == _sizes(HOME)
    except OSError:
        return False


def _sizes(folder: str) -> dict[str, int]:
    """By file; 0 for the installer, which may name another directory."""
    sizes = {}
    for where, _, names in os.walk(folder):
        for name in names:
            path = f"{where}/{name}"
            sizes[path[len(folder) :]] = 0 if name == "install" else os.stat(path).st_size
    return sizes


def _copy(source: str, target: str, built: str, bound: str) -> None:
    """The bundle's files, with the interpreter and the installer bound to another directory if need be."""
    os.mkdir(target, 0o755)
    for name in sorted(os.listdir(source)):
        path, copy = f"{source}/{name}", f"{target}/{name}"
        if os.path.isdir(path):
            _copy(path, copy, built, bound)
            continue
        data = _read(path)
        if built != bound and name == "python3":
            data = _rebound(data, built, bound)
        elif built != bound and name == "install":
            data = data.replace(f"#!{built}/{HOLDER}/".encode(), f"#!{bound}/{HOLDER}/".encode(), 1)
        _write(copy, data, 0o755 if os.access(path, os.X_OK) else 0o644)


def _rebound(data: bytes, built: str, bound: str) -> bytes:
    """The interpreter with other paths of its loader and libraries, in the room that slashes keep for them."""
    known = f"{built}/{HOLDER}/".encode()
    start = data.find(known)
    while start >= 0:
        end = data.index(b"\0", start)
        folder, _, name = data[start:end].rpartition(b"/")
        folder = bound.encode() + folder.rstrip(b"/")[len(built) :]
        room = end - start - len(folder) - len(name)
        if room < 1:
            raise Unusable(f"{bound} is too long a path by {1 - room} bytes")
        data = data[:start] + folder + b"/" * room + name + data[end:]
        start = data.find(known, end)
    return data


def _replace_socket(path: str, socket: str) -> None:
    if socket:
        _replace(path, f"{socket}\n".encode(), 0o644)
    else:
        _remove(path)


def _replace(path: str, data: bytes, mode: int) -> None:
    """Replaces the file at once."""
    partial = f"{path}.{os.getpid()}{PARTIAL}"
    _write(partial, data, mode)
    os.rename(partial, path)


def _link(to: str, path: str) -> None:
    partial = f"{path}{PARTIAL}"
    _remove(partial)
    os.symlink(to, partial)
    os.rename(partial, path)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _write(path: str, data: bytes, mode: int) -> None:
    """On disk when it returns: a node that loses power must not find half a plugin."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: str) -> None:
    """Removes a file, or a directory with its content, if it exists."""
    if os.path.isdir(path) and not os.path.islink(path):
        for name in os.listdir(path):
            _remove(f"{path}/{name}")
        os.rmdir(path)
    elif os.path.lexists(path):
        os.unlink(path)


def _print(descriptor: int, text: str) -> None:
    os.write(descriptor, f"{text}\n".encode())
