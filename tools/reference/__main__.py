"""Writes docs/reference and docs/pictures; with ``--check`` lists the files that differ and exits 1."""

import sys
from pathlib import Path

from reference import imports, kinds, metrics, pictures, protocol, reasons, settings, values

SOURCES = (kinds, settings, metrics, reasons, protocol, values)


def main(arguments: list[str]) -> int:
    check = "--check" in arguments
    (docs,) = [Path(argument) for argument in arguments if argument != "--check"] or [Path("docs")]
    made = {docs / "reference" / name: text for source in SOURCES for name, text in source.pages().items()}
    drawings = pictures.pictures() | imports.pictures()
    made |= {docs / "pictures" / name: text for name, text in drawings.items()}
    stale = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    gone = [path for path in (docs / "reference").glob("*.md") if path not in made]
    if check and (stale or gone):
        sys.stderr.write(f"out of date: {', '.join(map(str, [*stale, *gone]))}; run `make generate`\n")
        return 1
    if not check:
        for path in stale:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(made[path])
        for path in gone:
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
