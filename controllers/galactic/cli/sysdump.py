"""``galactic sysdump``: an archive for fault analysis, without secrets."""

import asyncio
import io
import json
import sys
import tarfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from galactic import __version__
from galactic.cli.cluster_options import DEGRADED, FINE, ClusterOptions
from galactic.errors import GalacticError, Rejected

if TYPE_CHECKING:
    from galactic.cli.cluster_access import ClusterAccess
    from galactic.kube.client import Kube

SECONDS: Final = 600.0
README: Final = """The state of Galactic in one cluster, written by `galactic sysdump`.

status.txt, status.json   output of `galactic status`
objects/                  the API server's objects, one file per kind
kernel/NODE.json          output of galactic-node-inspect: devices, rules, SIDs, VRFs, routes
router.json               output of galactic-router-inspect: the published tables
logs/, metrics/           of every program
errors.txt                missing parts, with their errors

Secrets are removed: the contents of Secrets and ConfigMaps, variables, flags, URLs, keys and tokens. Names of
namespaces, pods and nodes, and addresses are kept. Review the archive before you share it.
"""


def sysdump(
    options: ClusterOptions,
    file: Annotated[
        Path | None,
        typer.Argument(help="Path of the archive; default: galactic-sysdump-TIME.tar.gz in this folder."),
    ] = None,
    logs: Annotated[bool, typer.Option(help="Include the logs of Galactic's programs.")] = True,
    kernels: Annotated[bool, typer.Option(help="Include the state of the nodes' kernels.")] = True,
) -> int:
    """Write an archive for fault analysis: objects, logs, metrics, kernels; without secrets.

    Exit code 3 if parts are missing; the archive's errors.txt lists them.
    """
    path = file or Path(time.strftime("galactic-sysdump-%Y%m%d-%H%M%S.tar.gz", time.gmtime()))
    if not path.parent.is_dir():
        raise Rejected(f"no folder {str(path.parent)!r}", field="FILE")
    if path.exists():
        raise Rejected(f"{str(path)!r} exists; give another name", field="FILE")
    partial = path.with_name(f".{path.name}.partial")
    try:
        descriptor = partial.open("xb")
    except OSError as error:
        raise Rejected(f"{str(partial)!r} cannot be written: {error.strerror}", field="FILE") from error
    try:
        with descriptor, tarfile.open(fileobj=descriptor, mode="w:gz") as archive:
            errors = options.run(_fill(options, Folder(archive), logs=logs, kernels=kernels), seconds=SECONDS)
        partial.chmod(0o600)
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    print(path)
    for missing in errors:
        print(f"  missing: {missing}", file=sys.stderr)
    return DEGRADED if errors else FINE


class Folder:
    """The archive. Secrets are removed from everything that is added."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._at = time.time()

    def text(self, name: str, content: str) -> None:
        from galactic.cli.redaction import redacted_text  # noqa: PLC0415

        self._add(name, redacted_text(content))

    def json(self, name: str, value: Any) -> None:
        from galactic.cli.redaction import redacted_object  # noqa: PLC0415

        self._add(name, json.dumps(redacted_object(value), indent=1) + "\n")

    def _add(self, name: str, content: str) -> None:
        data = content.encode()
        entry = tarfile.TarInfo(f"galactic-sysdump/{name}")
        entry.size, entry.mtime, entry.mode = len(data), int(self._at), 0o600
        self._archive.addfile(entry, io.BytesIO(data))


async def _fill(options: ClusterOptions, folder: Folder, *, logs: bool, kernels: bool) -> list[str]:
    """Adds all parts; returns the errors of missing ones."""
    from galactic.cli.cluster_access import cluster_access  # noqa: PLC0415

    errors: list[str] = []
    folder.text(
        "README.txt",
        README + f"\ngalactic {__version__}, {time.strftime('%Y-%m-%d %H:%M:%SZ', time.gmtime())}\n",
    )
    async with options.kube() as kube:
        access = cluster_access(options, kube)
        for title, work in (
            ("status", lambda: _status(options, kube, folder)),
            ("objects", lambda: _objects(kube, folder, errors)),
            ("router", lambda: _router(access, folder)),
            *((("kernels", lambda: _kernels(kube, access, folder, errors)),) if kernels else ()),
            *((("logs", lambda: _texts(access.logs, "logs", folder)),) if logs else ()),
            ("metrics", lambda: _texts(access.metrics, "metrics", folder)),
        ):
            print(f"{title} …", file=sys.stderr, flush=True)
            try:
                await work()
            except GalacticError as error:
                errors.append(f"{title}: {error}")
    folder.text("errors.txt", "".join(f"{error}\n" for error in errors) or "none\n")
    return errors


async def _status(options: ClusterOptions, kube: "Kube", folder: Folder) -> None:
    from galactic.cli.status import examine, screen, summary  # noqa: PLC0415

    snapshot, findings = await examine(options, kube)
    folder.json("status.json", summary(snapshot, findings))
    folder.text("status.txt", "\n".join(screen(snapshot, findings, everything=True)) + "\n")


async def _objects(kube: "Kube", folder: Folder, errors: list[str]) -> None:
    """Galactic's objects, and those related to them."""
    from galactic.cli.cluster_access import LABELS  # noqa: PLC0415
    from galactic.kube import resources as kinds  # noqa: PLC0415
    from galactic.kube.api import NotFound  # noqa: PLC0415
    from galactic.kube.pods import requested_attachment, requested_vpc  # noqa: PLC0415

    whole = (kinds.VPCS, kinds.VPC_ATTACHMENTS, kinds.NODE_SEGMENTS, kinds.NADS, kinds.NODES, kinds.EVENTS)
    later = (kinds.VPC_POLICIES, kinds.POLICY_SLICES, kinds.VPC_GATEWAYS)
    hooks = (kinds.MUTATING_WEBHOOKS, kinds.VALIDATING_WEBHOOKS)
    labelled = (kinds.DEPLOYMENTS, kinds.DAEMON_SETS, kinds.STATEFUL_SETS, kinds.CONFIG_MAPS, kinds.SECRETS)
    for kind, labels in (
        *((kind, "") for kind in (*whole, *later, *hooks)),
        *((kind, LABELS) for kind in labelled),
    ):
        try:
            listed = (await kube.list(kind, labels=labels))[0]
        except GalacticError as error:
            if not (kind in later and isinstance(error, NotFound)):  # a cluster of an earlier version
                errors.append(f"objects of kind {kind.kind}: {error}")
        else:
            folder.json(f"objects/{kind.plural}.json", listed)
    pods = (await kube.list(kinds.PODS))[0]
    own = [
        pod
        for pod in pods
        if (pod["metadata"].get("labels") or {}).get("app.kubernetes.io/name") == "galactic"
    ]
    asking = [pod for pod in pods if requested_attachment(pod) or requested_vpc(pod)]
    folder.json("objects/pods.json", [*own, *asking])
    leases = [
        lease
        for lease in (await kube.list(kinds.LEASES))[0]
        if lease["metadata"]["name"].startswith("galactic")
    ]
    folder.json("objects/leases.json", leases)


async def _router(access: "ClusterAccess", folder: Folder) -> None:
    folder.json("router.json", await access.router_tables([]))


async def _kernels(kube: "Kube", access: "ClusterAccess", folder: Folder, errors: list[str]) -> None:
    from galactic.kube.resources import NODE_SEGMENTS  # noqa: PLC0415

    segments = (await kube.list(NODE_SEGMENTS))[0]
    turn = asyncio.Semaphore(8)

    async def add_kernel(node: str, inside: list[str]) -> None:
        async with turn:
            try:
                words = [word for pod in inside for word in ("--pod", pod)]
                folder.json(f"kernel/{node}.json", await access.inspect(node, ["--all", *words]))
            except GalacticError as error:
                errors.append(f"kernel of {node}: {error}")

    await asyncio.gather(
        *(
            add_kernel(
                segment["metadata"]["name"],
                [
                    f"{endpoint['netns']}@{endpoint['ifname']}"
                    for endpoint in (segment.get("status") or {}).get("endpoints") or ()
                    if endpoint.get("netns") and endpoint.get("ifname")
                ],
            )
            for segment in segments
        )
    )


async def _texts(source: Callable[[], AsyncIterator[tuple[str, str]]], under: str, folder: Folder) -> None:
    async for name, content in source():
        folder.text(f"{under}/{name}", content)
