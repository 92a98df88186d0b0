"""A command in a clone of this checkout on another release of Debian: ``python3 tools/debian_root.py SUITE FOLDER …``

As root, with debootstrap::

    python3 tools/debian_root.py trixie /var/tmp/trixie make demo

The release is in FOLDER, made at the first call. The clone is in FOLDER/root/galactic, at the commit that is checked
out here; builds are in FOLDER/root/.cache/galactic. The command has mounts and processes of its own, which end with it;
network and kernel are the machine's, and so are mirrors, certificates and the settings of pip and Go. Needs nothing but
the standard library.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).resolve().parents[1]
CLONE: Final = Path("root/galactic")
APT: Final = Path("/etc/apt")
PACKAGES: Final = ("ca-certificates", "gcc", "git", "libc6-dev", "make", "python3-dev", "python3-venv")
"""The packages that README.md requires of a machine."""
LENT: Final = ("/etc/resolv.conf", "/etc/ssl/certs", "/etc/pip.conf")
"""Files of the machine that the command sees in the place of the release's."""
KEPT: Final = re.compile(
    r"(PIP_(?!FIND_LINKS)|GO|SSL_|CI$|LANG|TERM|MAKEFLAGS|GALACTIC_|\w+_CA_BUNDLE|\w+_(proxy|PROXY)$)"
)
"""Variables that the command keeps."""
MOUNTS: Final = """
set -eu
root=$1 lent=$2; shift 2
mount --bind "$root" "$root"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
for path in $lent; do
  mount --bind -o ro "$path" "$root$path"
done
exec chroot "$root" sh -c 'cd /root/galactic && exec "$@"' sh "$@"
"""


def mirrors(text: str, release: str, suite: str) -> list[str]:
    """Lines of a sources.list for ``suite``, from deb822 stanzas (deb822, apt's sources.list(5)) for ``release``."""
    found = []
    for stanza in re.split(r"\n\s*\n", re.sub(r"(?m)^#.*\n?", "", text)):
        fields = {key.lower(): value.strip() for key, value in re.findall(r"(?m)^([\w-]+):(.*)$", stanza)}
        suites = fields.get("suites", "").split()
        for one in suites:
            if one == release or one.startswith(f"{release}-"):
                address = fields["uris"].split()[0]
                found.append(f"deb {address} {suite}{one.removeprefix(release)} main")
    return found


def variables(machine: Mapping[str, str]) -> dict[str, str]:
    """The command's environment."""
    kept = {name: value for name, value in machine.items() if KEPT.match(name)}
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return kept | {"PATH": path, "HOME": "/root"}


def make(root: Path, suite: str) -> None:
    """The release, with the machine's mirrors."""
    release = next(
        line.partition("=")[2].strip('"')
        for line in Path("/etc/os-release").read_text().splitlines()
        if line.startswith("VERSION_CODENAME=")
    )
    texts = [path.read_text() for path in sorted((APT / "sources.list.d").glob("*.sources"))]
    lines = mirrors("\n\n".join(texts), release, suite)
    if not lines:
        sys.exit(f"{APT / 'sources.list.d'} has no *.sources for {release}, from which to take a mirror")
    address = lines[0].split()[1]
    include = f"--include={','.join(PACKAGES)}"
    subprocess.run(["debootstrap", "--variant=minbase", include, suite, str(root), address], check=True)
    (root / "etc/apt/sources.list").write_text("".join(f"{line}\n" for line in lines))
    (root / "root/.cache/galactic").mkdir(parents=True)


def clone(root: Path) -> None:
    """The commit that is checked out here, in FOLDER/root/galactic; what the clone has besides stays."""
    target = root / CLONE
    head = _answer("git", "-C", str(CHECKOUT), "rev-parse", "HEAD")
    if not target.exists():
        subprocess.run(["git", "clone", "--quiet", "--no-checkout", str(CHECKOUT), str(target)], check=True)
    own = ["git", "-C", str(target)]
    subprocess.run([*own, "fetch", "--quiet", str(CHECKOUT), head], check=True)
    subprocess.run([*own, "checkout", "--quiet", "--force", "--detach", head], check=True)


def enter(root: Path, command: Sequence[str]) -> int:
    """The command's exit status."""
    lent = []
    for path in map(Path, LENT):
        if path.exists():
            inside = root / path.relative_to("/")
            inside.mkdir(parents=True, exist_ok=True) if path.is_dir() else inside.touch()
            lent.append(str(path))
    own = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    words = [*own, "sh", "-c", MOUNTS, "sh", str(root), " ".join(lent), *command]
    return subprocess.run(words, env=variables(os.environ), check=False).returncode


def _answer(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("suite")
    parser.add_argument("folder", type=Path)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if os.geteuid() != 0 or not shutil.which("debootstrap", path=variables({})["PATH"]):
        sys.exit("run this as root, with the packages debootstrap and git")
    root = given.folder.resolve()
    if not (root / "etc/os-release").exists():
        make(root, given.suite)
    clone(root)
    return enter(root, given.command or ["bash"])


if __name__ == "__main__":
    sys.exit(main())
