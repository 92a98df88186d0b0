"""A guest's clock goes into sources that are as expected, and into no others."""

from pathlib import Path

import pytest

from galactic_lab.builds import guest_clock
from galactic_lab.builds.build_linux import Source, build

VDSO = "arch/x86/um/vdso"
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


def test_an_expected_source_is_changed(tmp_path: Path) -> None:
    assert guest_clock.put(tree(tmp_path, SOURCE))
    changed = {name: (tmp_path / name).read_text() for name in SOURCE}
    assert "guest_clock.o" in changed[f"{VDSO}/Makefile"]
    assert not changed[f"{VDSO}/vma.c"].startswith("static")
    filtered = changed["arch/um/kernel/skas/stub_exe.c"]
    steps = filtered.count("BPF_STMT") + filtered.count("BPF_JUMP") - 1
    assert f"0xfffff000, {steps}, 0)" in filtered, "the stub's own calls pass by the new instructions"
    (include,) = [line for line in filtered.splitlines() if "guest_clock.h" in line]
    header = tmp_path / "arch/um/kernel/skas" / include.split('"')[1]
    assert "GUEST_CLOCK_CALL" in header.read_text()


@pytest.mark.parametrize("name", SOURCE)
@pytest.mark.parametrize("text", ["", None], ids=["another-text", "no-such-file"])
def test_another_source_stays_as_it_is(tmp_path: Path, name: str, text: str | None) -> None:
    others = {key: value for key, value in SOURCE.items() if key != name} | (
        {name: text} if text is not None else {}
    )
    tree(tmp_path, others)
    assert not guest_clock.put(tmp_path)
    assert {key: (tmp_path / key).read_text() for key in others} == others
    assert not list(tmp_path.rglob("guest_clock.*"))


@pytest.mark.parametrize(
    ("package", "fits"),
    [
        ("linux-source-6.1", False),
        ("linux-source-6.12", False),
        ("linux-source-6.16", True),
        ("linux-source-7.3", True),
    ],
)
def test_guests_in_seccomp_mode_get_it(package: str, fits: bool) -> None:
    assert guest_clock.fits(package) is fits
    assert ("guest_clock" in build(Source(package, "1")).inputs) is fits
