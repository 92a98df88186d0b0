"""Page faults of a guest's processes: fewer of them, and shorter ones.

In seccomp mode a process of a guest has a host process that maps its pages, from one file with all memory of the guest.
The guest's kernel sends that file with each order and the process closes it afterwards, a fifth of a fault's time: it
keeps the file from its start instead, as descriptor ``_MEMORY``. A written page also brings those after it
(``prefault/``). Programs start in three quarters of the time.

A traced guest (before Linux 6.16) pays more for a fault, and its kernel gives the process one page at each: all that
were made present around it are given at once instead.
"""

from pathlib import Path
from typing import Final

from galactic_lab.builds.guest_sources import Change

_MEMORY: Final = 1
"""The descriptor after that of the socket (0) that other files come by."""
_KEPT: Final = "STUB_MAX_FDS"
"""In an order, in place of the number of a file that was sent: it is no number of one."""
_CLOSE: Final = "stub_syscall3(__NR_close_range, {}, ~0U, 0)"
_ORDERS: Final = "arch/um/os-Linux/skas/mem.c"
_PROCESS: Final = "arch/um/kernel/skas/stub.c"
_FAULT: Final = "arch/um/kernel/trap.c"
_PREFAULT: Final = (
    (_FAULT, "#include <skas.h>", '#include <skas.h>\n#include "prefault.h"'),
    (
        _FAULT,
        "} while (!pte_present(*pte));",
        "} while (!pte_present(*pte));\n\tif (is_user && is_write)\n\t\tprefault(vma, address);",
    ),
)
_AROUND: Final = "(PAGE_SIZE << 4)"
"""The block of pages that Linux makes present at a fault of a file's page (its fault_around_bytes)."""
_FLUSH: Final = (
    f"\tflush_tlb_range(vma, max(vma->vm_start, ALIGN_DOWN(address, {_AROUND})),\n"
    f"\t\t\tmin(vma->vm_end, ALIGN(address + 1, {_AROUND})));"
)
_EDITS: Final = (
    ("arch/um/kernel/physmem.c", "static int physmem_fd = -1;", "int physmem_fd = -1;"),
    ("arch/um/include/shared/skas/stub-data.h", "short restart_wait;", "short restart_wait, files_sent;"),
    (
        "arch/um/kernel/skas/stub_exe.c",
        f"res = {_CLOSE.format(1)}",
        f"stub_syscall2(__NR_dup2, init_data.stub_data_fd, {_MEMORY});\n\t\tres = {_CLOSE.format(_MEMORY + 1)}",
    ),
    (
        "arch/um/os-Linux/skas/process.c",
        "data->signal = 0;",
        "data->files_sent = mm_idp->syscall_fd_num;\n\t\t\tdata->signal = 0;",
    ),
    (_ORDERS, "#include <skas.h>", "#include <skas.h>\n\nextern int physmem_fd;"),
    (
        _ORDERS,
        "prev_fd = mm_idp->syscall_fd_map[sc->mem.fd];",
        f"prev_fd = sc->mem.fd == {_KEPT} ? physmem_fd : mm_idp->syscall_fd_map[sc->mem.fd];",
    ),
    (
        _ORDERS,
        "\t/* Find existing FD in map",
        f"\tif (fd == physmem_fd)\n\t\treturn {_KEPT};\n\n\t/* Find existing FD in map",
    ),
    (_PROCESS, "fd = fd_map[sc->mem.fd];", f"fd = sc->mem.fd == {_KEPT} ? {_MEMORY} : fd_map[sc->mem.fd];"),
    (
        _PROCESS,
        "\t\tdo {\n\t\t\tres = stub_syscall3(__NR_recvmsg",
        "\t\tres = -EAGAIN;\n\t\tif (d->files_sent) do {\n\t\t\tres = stub_syscall3(__NR_recvmsg",
    ),
    *_PREFAULT,
)
_FOLDER: Final = Path(__file__).with_name("prefault")
MEMORY: Final = Change("memory", _FOLDER, "arch/um/kernel", _EDITS)
"""Of guests in seccomp mode."""
TRACED: Final = Change(
    "memory",
    _FOLDER,
    "arch/um/kernel",
    (
        *_PREFAULT,
        (_FAULT, "\tflush_tlb_page(vma, address);", _FLUSH),
    ),
)
"""Of traced guests."""
