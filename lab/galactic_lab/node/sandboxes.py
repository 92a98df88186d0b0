"""The network namespaces of running pods, found by the cgroups that kubelet makes for them."""

import shlex
from collections.abc import Iterable
from typing import Final

SCRIPT: Final = """
for uid in {uids}; do
  for file in $(find /sys/fs/cgroup -path "*pod$uid/*" -name cgroup.procs); do
    read -r pid < "$file" && echo "$uid $pid" && break
  done
done
"""


def query(uids: Iterable[str]) -> list[str]:
    """The argv for the lab's kernel that prints ``UID PID`` for each pod with a process."""
    return ["sh", "-c", SCRIPT.format(uids=" ".join(shlex.quote(uid) for uid in uids))]


def parsed(output: str) -> dict[str, str]:
    """The file of the network namespace, in the lab's kernel, by the pod's UID."""
    return {
        uid: f"/proc/{pid}/ns/net" for uid, _, pid in (line.partition(" ") for line in output.splitlines())
    }
