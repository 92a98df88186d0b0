"""docs/licences.md: ``python -m release.licences [--check]``.

Written from the metadata of the installed libraries. A shipped library whose licence is not in ``SHIPPED`` ends it with
exit code 1 and the library's name: a maintainer has to decide.
"""

import argparse
import re
import sys
from importlib.metadata import Distribution
from typing import Final

from release.distributions import DEVELOPMENT, IMAGE, ROOT, closure

PAGE: Final = ROOT / "docs/licences.md"
SHIPPED: Final = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "ISC",
        "LGPL-3.0-only",  # used as it is, replaceable: a Python package beside ours
        "MIT",
        "MIT-0",
        "MPL-2.0",  # used as it is
        "PSF-2.0",
        "Unlicense",
    }
)
"""Licences (SPDX) under which a library may be in the image."""
SPELLINGS: Final = {
    "apache 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd 2-clause license": "BSD-2-Clause",
    "bsd-derived (http://www.repoze.org/license.txt)": "LicenseRef-Repoze",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
}
"""Licences in metadata that are no SPDX expression, in lower case, with their SPDX identifiers. "BSD License" is
ambiguous.
"""
HEAD: Final = """\
# Licences

For who has to know under which licences Galactic's parts come. Galactic itself is under Apache-2.0 (`LICENSE`).

`make generate` writes this page from what the installed libraries say of themselves. `make check` fails when it is not
true any more, and when a library of the image comes under a licence that `tools/release/licences.py` does not list.
Versions are in `constraints.txt`; `make sbom` writes all of it for programs ([supply-chain.md](supply-chain.md)).
"""
DEBIAN: Final = """\
Beside them the image has packages of Debian, each with its licence in `/usr/share/doc`: among them Python (PSF-2.0),
glibc (LGPL-2.1-or-later), iptables, nftables and kmod (GPL-2.0-or-later). The CNI plugin carries that Python and that
glibc along. Wheels bring compiled libraries of others with them, such as OpenSSL and libpq, and their licences too."""


def licence(one: Distribution) -> str:
    """An SPDX expression, or the text of the library's metadata."""
    fields = one.metadata.json
    if expression := fields.get("license_expression"):
        return str(expression)
    stated = str(fields.get("license") or "").strip()
    classified = [
        line.rpartition(" :: ")[2] for line in fields.get("classifier") or () if "License ::" in line
    ]
    for text in (stated, *classified):
        if found := SPELLINGS.get(text.lower()):
            return found
        if re.fullmatch(r"[A-Za-z0-9.]+(-[A-Za-z0-9.]+)+|MIT|ISC", text):
            return text
    return (stated or " ".join(classified) or "says nothing").partition("\n")[0]


def allowed(expression: str, listed: frozenset[str] = SHIPPED) -> bool:
    """Whether a library under that expression (AND, OR, no parentheses) may be shipped."""
    return any(
        all(part.strip() in listed for part in re.split(r"\sAND\s", choice))
        for choice in re.split(r"\sOR\s", expression)
    )


def page(shipped: dict[str, Distribution], others: dict[str, Distribution]) -> str:
    """The whole page."""
    return "\n".join(
        [
            HEAD,
            "## In the image",
            "",
            *_table(shipped),
            "",
            DEBIAN,
            "",
            "## For development, the lab and tests only",
            "",
            *_table(others),
            "",
        ]
    )


def _table(listed: dict[str, Distribution]) -> list[str]:
    rows = [f"| {one.name} | {licence(one)} |" for _, one in sorted(listed.items())]
    return ["| library | licence |", "|---|---|", *rows]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    shipped = closure(IMAGE)
    everything = closure((*IMAGE, *DEVELOPMENT))
    others = {name: one for name, one in everything.items() if name not in shipped}
    if refused := {one.name: licence(one) for one in shipped.values() if not allowed(licence(one))}:
        for name, text in sorted(refused.items()):
            _report(f"{name}: {text!r} is no licence that tools/release/licences.py lists for the image")
        return 1
    text = page(shipped, others)
    if not check:
        PAGE.write_text(text)
    elif not PAGE.exists() or PAGE.read_text() != text:
        _report(f"{PAGE.relative_to(ROOT)} is not what the installed libraries say; run `make generate`")
        return 1
    return 0


def _report(text: str) -> None:
    sys.stderr.write(f"licences: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
