"""Changes that make guests faster go into sources that are as expected, and into no others."""

from pathlib import Path

import pytest

from galactic_lab.builds.build_linux import Source, build
from galactic_lab.builds.guest_clock import CLOCK
from galactic_lab.builds.guest_memory import MEMORY, TRACED
from galactic_lab.builds.guest_sources import Change

VDSO = "arch/x86/um/vdso"
CHANGES = {"clock": CLOCK, "memory": MEMORY, "traced": TRACED}
SOURCE = {
    f"{VDSO}/Makefile": "obj-y += vdso.o vma.o\n",
    f"{VDSO}/vma.c": "static struct page *um_vdso;\n",
    "arch/um/kernel/skas/stub_exe.c": "#include <linux/seccomp.h>\n"
    "BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (stub_start) & 0xfffff000, 1, 0),\n"
    "BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),\n",
}


def tree(folder: Path, texts: dict[str, str]) -> Path:
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def expected(change: Change) -> dict[str, str]:
    """A source that has each place once."""
    texts: dict[str, str] = {f"{change.into}/Makefile": ""}
    for name, old, _ in change.edits:
        texts[name] = texts.get(name, "") + old + "\n"
    return texts


def test_the_clocks_calls_pass_the_filter(tmp_path: Path) -> None:
    assert CLOCK.put(tree(tmp_path, SOURCE))
    changed = {name: (tmp_path / name).read_text() for name in SOURCE}
    assert "guest_clock.o" in changed[f"{VDSO}/Makefile"]
    assert not changed[f"{VDSO}/vma.c"].startswith("static")
    filtered = changed["arch/um/kernel/skas/stub_exe.c"]
    steps = filtered.count("BPF_STMT") + filtered.count("BPF_JUMP") - 1
    assert f"0xfffff000, {steps}, 0)" in filtered, "the stub's own calls pass by the new instructions"
    (include,) = [line for line in filtered.splitlines() if "guest_clock.h" in line]
    header = tmp_path / "arch/um/kernel/skas" / include.split('"')[1]
    assert "GUEST_CLOCK_CALL" in header.read_text()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_expected_source_is_changed(tmp_path: Path, change: Change) -> None:
    assert change.put(tree(tmp_path, expected(change)))
    for name, _, new in change.edits:
        assert new in (tmp_path / name).read_text()
    for path in change.folder.iterdir():
        assert (tmp_path / change.into / path.name).read_text() == path.read_text()


@pytest.mark.parametrize("text", ["", None], ids=["another-text", "no-such-file"])
@pytest.mark.parametrize(
    ("change", "name"),
    [
        pytest.param(change, name, id=f"{title}-{name}")
        for title, change in CHANGES.items()
        for name in sorted({name for name, _, _ in change.edits})
    ],
)
def test_another_source_stays_as_it_is(tmp_path: Path, change: Change, name: str, text: str | None) -> None:
    others = {key: value for key, value in expected(change).items() if key != name}
    others |= {name: text} if text is not None else {}
    tree(tmp_path, others)
    assert not change.put(tmp_path)
    found = {
        str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()
    }
    assert found == others


@pytest.mark.parametrize(
    ("package", "given"),
    [
        ("linux-source-6.1", (TRACED,)),
        ("linux-source-6.12", (TRACED,)),
        ("linux-source-6.16", (CLOCK, MEMORY)),
        ("linux-source-7.3", (CLOCK, MEMORY)),
    ],
)
def test_each_mode_has_its_own(package: str, given: tuple[Change, ...]) -> None:
    inputs = build(Source(package, "1")).inputs
    assert [change for change in CHANGES.values() if change.inputs in inputs] == list(given)


def test_a_traced_guest_gets_the_pages_around_a_fault(tmp_path: Path) -> None:
    trap = "arch/um/kernel/trap.c"
    loop = "\t} while (!pte_present(*pte));\n\terr = 0;\n"
    text = f"#include <skas.h>\n{loop}\tflush_tlb_page(vma, address);\nout:\n"
    assert TRACED.put(tree(tmp_path, {f"{TRACED.into}/Makefile": "", trap: text}))
    changed = (tmp_path / trap).read_text()
    assert changed.index("prefault(vma, address)") < changed.index("flush_tlb_range(vma, max(vma->vm_start")
    assert "flush_tlb_page" not in changed
