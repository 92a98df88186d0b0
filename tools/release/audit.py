"""`make audit`: known vulnerabilities of what is shipped, by pip-audit: ``python -m release.audit``.

Exit code 1 if there are any, and only then. Where pip-audit or its service is away, a message states that nothing was
checked, and the exit code is 0: a check that fails without a network is soon disabled.
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
"""The time-out of one request to the service."""
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
    """The exit code for pip-audit's output, with the findings on standard error."""
    try:
        found: list[dict[str, Any]] = json.loads(out)["dependencies"]
    except (ValueError, KeyError, TypeError):
        complaints = [line for line in error.splitlines() if line.strip()]
        return _skipped(complaints[-1] if complaints else "pip-audit printed nothing")
    unknown = [one["name"] for one in found if "skip_reason" in one]
    if len(unknown) == len(found):
        return _skipped("the service knows none of these libraries")
    vulnerable = [one for one in found if one.get("vulns")]
    for one in vulnerable:
        for known in one["vulns"]:
            fixed = ", ".join(known.get("fix_versions", ())) or "no version yet"
            _report(f"{one['name']} {one['version']}: {known['id']}, fixed in {fixed}")
    if unknown:
        _report(f"not known to the service: {', '.join(unknown)}")
    if not vulnerable:
        _report(f"no known vulnerabilities in {len(found) - len(unknown)} libraries")
    return 1 if vulnerable else 0


def _skipped(why: str) -> int:
    _report(f"NOT DONE, nothing was checked: {why}")
    return 0


def _report(text: str) -> None:
    sys.stderr.write(f"audit: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
