"""`make audit`: known vulnerabilities of what is shipped, by pip-audit: ``python -m release.audit``.

Ends with 1 when there are any, and only then: where pip-audit or its service is not to be had it says so and that
nothing was looked at, and ends well, because a check that fails without a network is soon switched off.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from release.distributions import IMAGE, closure, constraints

SECONDS: Final = 10
"""For one answer of the service."""
PATIENCE: Final = 240


def main() -> int:
    if importlib.util.find_spec("pip_audit") is None:
        return _skipped("pip-audit is not installed and could not be fetched")
    pinned = constraints()
    lines = [f"{name}=={pinned[name]}" for name in sorted(closure(IMAGE))]
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "requirements.txt"
        listed.write_text("\n".join(lines) + "\n")
        try:
            done = subprocess.run(
                [
                    *(
                        sys.executable,
                        "-m",
                        "pip_audit",
                        "--requirement",
                        listed,
                        "--no-deps",
                        "--disable-pip",
                    ),
                    *("--format", "json", "--progress-spinner", "off", "--timeout", str(SECONDS)),
                ],
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return _skipped(f"no answer within {PATIENCE} seconds")
    return verdict(done.stdout, done.stderr)


def verdict(out: str, error: str) -> int:
    """What follows from what pip-audit printed."""
    try:
        found: list[dict[str, Any]] = json.loads(out)["dependencies"]
    except (ValueError, KeyError, TypeError):
        complaints = [line for line in error.splitlines() if line.strip()]
        return _skipped(complaints[-1] if complaints else "pip-audit said nothing")
    unknown = [one["name"] for one in found if "skip_reason" in one]
    if len(unknown) == len(found):
        return _skipped("the service knows none of these libraries")
    vulnerable = [one for one in found if one.get("vulns")]
    for one in vulnerable:
        for each in one["vulns"]:
            fixed = ", ".join(each.get("fix_versions", ())) or "no version yet"
            _say(f"{one['name']} {one['version']}: {each['id']}, fixed in {fixed}")
    if unknown:
        _say(f"not known to the service: {', '.join(unknown)}")
    if not vulnerable:
        _say(f"no known vulnerabilities in {len(found) - len(unknown)} libraries")
    return 1 if vulnerable else 0


def _skipped(why: str) -> int:
    _say(f"NOT DONE, nothing was looked at: {why}")
    return 0


def _say(text: str) -> None:
    sys.stderr.write(f"audit: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
