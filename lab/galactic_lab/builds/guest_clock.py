"""Programs of a guest read clocks without a trap into its kernel: the files of ``vdso``, put into Linux's source.

A guest in seccomp mode (Linux 6.16 and later) pays some 10 µs for each system call: two signals and two changes of
process. Half of the system calls of Go's programs read a clock, which on other machines is none. The guest's
CLOCK_MONOTONIC is the host's and a constant, so the guest's vDSO asks the host, and the filter of the guest's processes
lets that one call through. Programs see the same clock as before, to the microsecond. CLOCK_REALTIME may be set in a
guest, and stays with its kernel.
"""

from pathlib import Path
from typing import Final

from galactic_lab.builds.guest_sources import Change

_INTO: Final = "arch/x86/um/vdso"
_FILTER: Final = "arch/um/kernel/skas/stub_exe.c"
_HEADER: Final = "#include <linux/seccomp.h>"
_LET_THROUGH: Final = """
BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_clock_gettime, 0, 3),
BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[5])),
BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, GUEST_CLOCK_CALL, 0, 1),
BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),"""
"""In place of the filter's end for system calls that are not the stub's: six instructions for one."""
_EDITS: Final = (
    (f"{_INTO}/Makefile", "vdso.o vma.o", "vdso.o vma.o guest_clock.o"),
    (f"{_INTO}/vma.c", "static struct page *um_vdso;", "struct page *um_vdso;"),
    (_FILTER, "0xfffff000, 1, 0)", "0xfffff000, 6, 0)"),
    (_FILTER, "BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),", _LET_THROUGH),
    (_FILTER, _HEADER, f'{_HEADER}\n#include "../../../../{_INTO}/guest_clock.h"'),
)
CLOCK: Final = Change("vDSO", Path(__file__).with_name("vdso"), _INTO, _EDITS)
