"""Attachments that are there before the programs start: copies of some that the system made, written to its etcd.

Through the API server each would cost six requests, and could not have the UIDs that owners and carriers name. Each is
a VPCAttachment, a NetworkAttachmentDefinition, a bound and running Pod, an entry in the status of its node's
NodeSegment, and a record in the node's folder. VPCs get the finalizer and the counts of their members. So a start finds
what it would find after everything was restarted, except for the broker, which begins without any table.
"""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network, ip_network
from pathlib import Path
from typing import Final

from copies import Member, Stamp, Template, Vpc, member_of, with_status
from etcd import Etcd, batches, key
from load import NAMESPACE, Load, each, placed
from plan import VpcNumbers, planned, template_numbers
from processes import Cluster
from result import note
from waits import Waits

from galactic.kube.client import Kube
from galactic.kube.resources import NADS, NODE_SEGMENTS, PODS, VPC_ATTACHMENTS, VPCS
from galactic.names import function_hex, vpc_hex
from galactic.srv6 import parse_prefix

WRITERS: Final = 4
REPORT_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Present:
    """Made by the system: the texts of all NodeSegments and VPCs by name, and some attachments."""

    segments: Mapping[str, str]
    vpcs: Mapping[str, str]
    templates: Sequence[Template]

    @property
    def prefixes(self) -> dict[str, IPv6Network]:
        return {
            node: parse_prefix(json.loads(text)["spec"]["prefix"]) for node, text in self.segments.items()
        }


class Preload:
    """The first ``count`` of the pods of ``placed``. The cluster runs before, and does not afterwards."""

    def __init__(self, cluster: Cluster, kube: Kube, load: Load, waits: Waits, count: int) -> None:
        self._cluster, self._kube, self._load, self._waits = cluster, kube, load, waits
        self._count = count

    async def run(self) -> None:
        first = template_numbers(self._cluster.count)
        await self._load.fill(first)
        await self._waits.until(lambda figures: figures["attached"] == len(first))
        await self._waits.writes()
        await self._waits.quiet()
        self._cluster.stop()
        self._cluster.empty_broker()
        async with Etcd((self._cluster.folder / "etcd.url").read_text()) as etcd:
            present = await self._present(etcd)
            check(present)
            began = time.monotonic()
            await self._write(etcd, present, sorted({*range(self._count)} - {*first}))
        await self._waits.servers_quiet()
        note(f"{self._count} attachments written ({time.monotonic() - began:.0f} s)")

    async def _present(self, etcd: Etcd) -> Present:
        nodes = [f"n{number}" for number in range(1, self._cluster.count + 1)]
        vpcs = sorted({placed(number, len(nodes))[1] for number in range(self._count)})
        present = Present(
            {name: await etcd.get(key(NODE_SEGMENTS, name)) for name in nodes},
            {name: await etcd.get(key(VPCS, name, NAMESPACE)) for name in vpcs},
            templates := [],
        )
        prefixes = present.prefixes
        attachments, _ = await self._kube.list(VPC_ATTACHMENTS, NAMESPACE)
        for attachment in sorted(attachments, key=lambda attachment: str(attachment["metadata"]["name"])):
            name = attachment["metadata"]["name"]
            definition = await etcd.get(key(NADS, name, NAMESPACE))
            node = attachment["status"]["carriers"][0]["node"]
            member = member_of(attachment, json.loads(definition), prefixes[node])
            # etcd has pods in binary; the API server reads them in JSON as well.
            pod = await self._kube.get(PODS, member.pod, NAMESPACE)
            del pod["metadata"]["resourceVersion"]
            listed = json.loads(present.segments[node])["status"]["endpoints"]
            (endpoint,) = (entry for entry in listed if entry["attachment"] == f"{NAMESPACE}/{name}")
            templates.append(
                Template(
                    member=member,
                    attachment=await etcd.get(key(VPC_ATTACHMENTS, name, NAMESPACE)),
                    definition=definition,
                    pod=_text(pod),
                    endpoint=_text(endpoint),
                    record=self._record(member).read_text(),
                )
            )
        return present

    def _record(self, member: Member) -> Path:
        name = f"{vpc_hex(member.identifier)}-{function_hex(member.function)}.json"
        return self._cluster.folder / "nodes" / member.node / "attachments" / name

    async def _write(self, etcd: Etcd, present: Present, numbers: Sequence[int]) -> None:
        vpcs = {name: _numbers(text) for name, text in present.vpcs.items()}
        endpoints: dict[str, list[tuple[Member, str]]] = defaultdict(list)
        for made in present.templates:
            vpcs[made.member.vpc].take(made.member)
            endpoints[made.member.node].append((made.member, made.endpoint))
        template = present.templates[0]
        members = planned(numbers, vpcs, present.prefixes, template.member.epoch)
        progress = Progress(3 * len(numbers))

        def copies() -> Iterator[tuple[str, str]]:
            stamp = Stamp(template.member.words)
            for member in members:
                copy = template.copy(stamp, member)
                endpoints[member.node].append((member, copy.endpoint))
                self._record(member).write_text(copy.record)
                yield key(PODS, member.pod, NAMESPACE), copy.pod
                yield key(VPC_ATTACHMENTS, member.name, NAMESPACE), copy.attachment
                yield key(NADS, member.name, NAMESPACE), copy.definition

        async def put(batch: Mapping[str, str]) -> None:
            await etcd.put(batch)
            progress.advance(len(batch))

        await each(batches(copies()), put, at_once=WRITERS)
        rest = (*_segments(present, endpoints), *_vpcs(present, endpoints))
        await each(batches(rest), etcd.put, at_once=WRITERS)


class Progress:
    """Reports, every REPORT_SECONDS, how many of ``total`` objects are written."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._began = self._reported = time.monotonic()

    def advance(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._reported > REPORT_SECONDS:
            self._reported = now
            left = (now - self._began) / self._done * (self._total - self._done)
            note(f"  {self._done} of {self._total} objects written, {left:.0f} s to go")


def check(present: Present) -> None:
    """Raises SystemExit where a copy of the first attachment is not what the system made of another member."""
    template, *others = present.templates
    stamp = Stamp(template.member.words)
    for other in others:
        copy = template.copy(stamp, other.member)
        for kind in copy.differences(other):
            texts = f"{copy.texts[kind]}\n{other.texts[kind]}"
            raise SystemExit(f"the copy of the {kind} of {other.member.pod} is not what was made:\n{texts}")


def _numbers(text: str) -> VpcNumbers:
    body = json.loads(text)
    networks = [ip_network(network) for network in body["spec"]["networks"]]
    return VpcNumbers(int(body["status"]["identifier"], 16), networks)


def _segments(
    present: Present, endpoints: Mapping[str, Sequence[tuple[Member, str]]]
) -> Iterator[tuple[str, str]]:
    for node, text in present.segments.items():
        listed = sorted(endpoints[node], key=lambda entry: entry[0].key)
        counts = {"vpcs": len({member.identifier for member, _ in listed}), "endpoints": len(listed)}
        status = {"counts": counts, "endpoints": [json.loads(entry) for _, entry in listed]}
        yield key(NODE_SEGMENTS, node), with_status(text, status)


def _vpcs(
    present: Present, endpoints: Mapping[str, Iterable[tuple[Member, str]]]
) -> Iterator[tuple[str, str]]:
    """VPCs that had no member are copies of one that had."""
    members = Counter(member.vpc for listed in endpoints.values() for member, _ in listed)
    used = {template.member.vpc for template in present.templates}
    template = present.vpcs[min(used)]
    words = _vpc(template).words
    for name, text in present.vpcs.items():
        written = text if name in used else Stamp(words)(template, _vpc(text).words)
        counts = {"attachments": members[name], "endpoints": members[name]}
        yield key(VPCS, name, NAMESPACE), with_status(written, counts)


def _vpc(text: str) -> Vpc:
    body = json.loads(text)
    meta = body["metadata"]
    return Vpc(meta["name"], meta["uid"], int(body["status"]["identifier"], 16))


def _text(body: object) -> str:
    return json.dumps(body, separators=(",", ":"))
