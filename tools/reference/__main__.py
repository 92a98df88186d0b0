"""Writes the pages into a directory, or with ``--check`` says which differ and exits 1."""

import sys
from pathlib import Path

from reference import kinds, metrics, protocol, reasons, settings, values

SOURCES = (kinds, settings, metrics, reasons, protocol, values)


def main(arguments: list[str]) -> int:
    check = "--check" in arguments
    (folder,) = [Path(argument) for argument in arguments if argument != "--check"] or [
        Path("docs/reference")
    ]
    made = {name: text for source in SOURCES for name, text in source.pages().items()}
    stale = [name for name, text in made.items() if not _same(folder / name, text)]
    stale += [path.name for path in folder.glob("*.md") if path.name not in made]
    if check and stale:
        sys.stderr.write(f"out of date in {folder}: {', '.join(sorted(stale))}; run `make generate`\n")
        return 1
    if not check:
        folder.mkdir(parents=True, exist_ok=True)
        for name in stale:
            if name in made:
                (folder / name).write_text(made[name])
            else:
                (folder / name).unlink()
    return 0


def _same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
