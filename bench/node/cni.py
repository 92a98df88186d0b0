"""The CNI plugin beside Go's: ``bench/node/cni.py [--repeats 15] [--present 1000] [--parallel 200] [--stand-in]``.

Prints medians of runs that alternate, and their ratios:

- cold start (``CNI_COMMAND=VERSION``) of the built plugin, beside host-local: goal 5;
- a whole ADD, from the start of the plugin's process to its end, with the real node controller and kernel behind it,
  beside ptp with host-local: goal 2.5;
- the same ADD on a node with so many attachments present, beside one with 10: goal 1.2;
- so many ADDs at once: all must succeed.

The first is measured on this machine, the rest where there are VRFs: here, in namespaces of its own, or in the lab's
guest kernel, all of it, both sides. The guest is another world, in which starting a process and talking to the kernel
cost many times what they cost elsewhere: with ``--stand-in`` it is this machine's kernel nevertheless, with bridges in
place of VRFs (see ``cni_standin.py``). Needs root and Debian's containernetworking-plugins.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from cni_plugin import bundle
from galactic_lab.builds import guest_kernels, packages
from galactic_lab.builds.build_linux import build
from galactic_lab.builds.guest_kernels import PINNED

GO = Path("/usr/lib/cni")
INSIDE = Path(__file__).with_name("cni_inside.py")
CHECKOUT = Path(__file__).parents[2]
WORK = "/var/tmp/bench"
INIT = """#!/bin/sh
mount -t proc proc /proc 2>/dev/null; mount -t sysfs sysfs /sys 2>/dev/null
mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/tmp && mkdir -p {work} && ip link set lo up
cp -a {go} {work}/go && cp -a {bundle} {work}/bin
env PATH={venv}:/usr/sbin:/usr/bin:/sbin:/bin TMPDIR=/var/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={path} \\
  {python} {inside} {work} {arguments}
echo "inside: exit code $?"
{end}
"""


def has_vrf() -> bool:
    trial = "ip link add name vrf9 type vrf table 9 && ip link add name dummy9 type dummy"
    return (
        subprocess.run(["unshare", "--net", "sh", "-c", trial], capture_output=True, check=False).returncode
        == 0
    )


def once(program: str) -> float:
    """Milliseconds from start to end of one process that is asked for its version."""
    return _milliseconds([program], {"CNI_COMMAND": "VERSION"})


def _milliseconds(command: list[str], environment: dict[str, str]) -> float:
    from time import perf_counter  # noqa: PLC0415

    null = os.open(os.devnull, os.O_RDWR)
    actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1)]
    begin = perf_counter()
    pid = os.posix_spawn(command[0], command, environment, file_actions=actions)
    _, status = os.waitpid(pid, 0)
    taken = perf_counter() - begin
    os.close(null)
    assert os.waitstatus_to_exitcode(status) == 0, command
    return taken * 1000


def cold(folder: Path, repeats: int) -> dict[str, list[float]]:
    """Both plugins' starts, alternating."""
    bundle.build(folder / "bin", str(folder / "bin"))
    programs = {"galactic": str(folder / "bin" / "galactic"), "go": str(GO / "host-local")}
    times: dict[str, list[float]] = {name: [] for name in programs}
    for program in programs.values():
        once(program)
    for _ in range(repeats):
        for name, program in programs.items():
            times[name].append(once(program))
    return times


def inside(folder: Path, given: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """The figures of ``cni_inside.py``, in a kernel with VRFs."""
    built = folder / "for-the-guest"
    bundle.build(built, f"{WORK}/bin")
    here = has_vrf() or given.stand_in
    init = folder / "init"
    init.write_text(
        INIT.format(
            work=WORK,
            go=GO,
            bundle=built,
            python=sys.executable,
            venv=Path(sys.executable).parent,
            path=f"{CHECKOUT / 'controllers'}:{CHECKOUT / 'src'}",
            inside=INSIDE,
            arguments=f"{given.repeats} {given.present} {given.parallel} {'--stand-in' if given.stand_in else ''}",
            end="" if here else "halt -f",
        )
    )
    init.chmod(0o755)
    where = "this kernel" if here else "the lab's guest kernel (User Mode Linux, one processor)"
    print("ADDs: on", where, "with stand-ins for VRFs" if given.stand_in else "", flush=True)
    if here:
        command = ["unshare", "--net", "--mount", str(init)]
    else:
        arguments = (
            "root=/dev/root rootfstype=hostfs rootflags=/ ro mem=3G quiet con=null con0=null,fd:1 ssl=null"
        )
        linux = build(guest_kernels.resolve(PINNED)).home / "linux"
        command = [str(linux), *arguments.split(), f"uml_dir={folder}", f"init={init}"]
    run = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace"
    )
    assert run.stdout
    measured: dict[str, dict[str, list[float]]] = {}
    for line in run.stdout:
        if line.startswith("measured: "):
            name, _, figures = line.removeprefix("measured: ").partition(" ")
            measured[name] = json.loads(figures)
        else:
            print("   ", line.rstrip(), flush=True)
    run.wait()
    if len(measured) < 3:
        sys.exit("not everything could be measured: see above")
    return measured


def print_ratio(title: str, times: dict[str, list[float]], ours: str, theirs: str, goal: float) -> bool:
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratio = medians[ours] / medians[theirs]
    print(
        f"{title}: {ours} {medians[ours]:.1f} ms, {theirs} {medians[theirs]:.1f} ms, of {len(times[ours])} each"
    )
    for name, values in times.items():
        print(f"    {name:>16}", " ".join(f"{value:.1f}" for value in values))
    print(f"    ratio {ratio:.2f} (goal: at most {goal})", flush=True)
    return ratio <= goal


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--present", type=int, default=1000)
    parser.add_argument("--parallel", type=int, default=200)
    parser.add_argument(
        "--stand-in", action="store_true", help="on this kernel, with bridges in place of VRFs"
    )
    given = parser.parse_args()
    packages.install(["containernetworking-plugins"])
    with tempfile.TemporaryDirectory(prefix="galactic-bench-") as name:
        folder = Path(name)
        good = print_ratio("cold start", cold(folder, given.repeats * 3), "galactic", "go", 5)
        measured = inside(folder, given)
        shutil.rmtree(folder / "for-the-guest")
        good &= print_ratio("whole ADD", measured["add"], "galactic", "go", 2.5)
        good &= print_ratio(f"ADD among {given.present}", measured["present"], "many", "few", 1.2)
        failed = measured["parallel"]["failed"]
        seconds = measured["parallel"]["seconds"][0]
        print(f"{given.parallel} ADDs at once: {len(failed)} failed, {seconds:.1f} s")
        return 0 if good and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
