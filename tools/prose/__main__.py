"""``python -m prose [--write]``: names new text with a word that CONTRIBUTING.md rules out, and exits 1.

With ``--write`` the committed numbers fall to what is there, and move with text from package to package.
"""

import json
import sys

from prose.ratchet import COUNTS, counted, places, read, risen, totals

RULES = 'CONTRIBUTING.md, "Prose and names"'


def main(arguments: list[str]) -> int:
    found, allowed = list(places()), read()
    if "--write" in arguments:
        counts = counted(found)
        if more := totals(counts) - totals(allowed):
            sys.stderr.write(f"prose: not written, there is more of {', '.join(sorted(more))}: {RULES}\n")
            return 1
        COUNTS.write_text(json.dumps(counts, indent=1, sort_keys=True) + "\n")
        return 0
    new = risen(found, allowed)
    for place in new:
        permitted = allowed.get(place.package, {}).get(place.kind, 0)
        sys.stderr.write(f"{place} ({place.package} may have {permitted} of {place.kind})\n")
    if new:
        sys.stderr.write(f"prose: write the lines that are new without these words: {RULES}\n")
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
