"""A command in a container, as ``kubectl exec`` runs it: over a WebSocket, subprotocol v4.channel.k8s.io."""

import asyncio
from typing import Final, NamedTuple
from urllib.parse import urlencode

import aiohttp
import msgspec

from galactic.errors import Rejected, Unreachable
from galactic.kube.client import CONNECT_SECONDS, Kube

PROTOCOL: Final = "v4.channel.k8s.io"
_STDOUT, _STDERR, _STATUS = 1, 2, 3
LARGEST: Final = 256 << 20
"""Bytes of one message, and of a command's whole output."""


class Outcome(NamedTuple):
    """A command's output and exit code."""

    code: int
    output: str
    errors: str


class TooSlow(Unreachable):
    """The command did not end in time."""


async def execute(
    kube: Kube, namespace: str, pod: str, container: str, argv: list[str], *, seconds: float = 60.0
) -> Outcome:
    """Runs ``argv`` in a running container. Raises Rejected where RBAC forbids it, Unreachable, TooSlow."""
    api = kube._api  # noqa: SLF001  (the same package: one client, one set of credentials)
    query = [("command", word) for word in argv]
    query += [("container", container), ("stdout", "true"), ("stderr", "true")]
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/exec"
    headers: dict[str, str] = {}
    await api.update_params_for_auth(headers, [], ["BearerToken"], path, "GET", None)
    if api.rest_client.pool_manager is None:
        api.rest_client.pool_manager = api.rest_client._create_pool_manager()  # noqa: SLF001
    session: aiohttp.ClientSession = api.rest_client.pool_manager
    url = f"{api.configuration.host}{path}?{urlencode(query)}"
    where = f"{namespace}/{pod}"
    kube.requests += 1
    command = f"pod {where}: `{argv[0]}`"
    kube.commands.append(command)
    try:
        async with (
            asyncio.timeout(seconds),
            session.ws_connect(
                url,
                headers=headers,
                protocols=(PROTOCOL,),
                max_msg_size=LARGEST,
                timeout=aiohttp.ClientWSTimeout(ws_close=CONNECT_SECONDS),
            ) as stream,
        ):
            return await _outcome(stream, where)
    except aiohttp.WSServerHandshakeError as error:
        if error.status in (401, 403):
            raise Rejected(
                f"may not run commands in pod {where} ({error.status}): pods/exec is needed",
                reason="Forbidden",
            ) from error
        raise Unreachable("kubelet", f"pod {where}: {error.status} {error.message}") from error
    except TimeoutError as error:
        raise TooSlow("kubelet", f"{command} took longer than {seconds:g} s") from error
    except (aiohttp.ClientError, OSError) as error:
        raise Unreachable("kubelet", f"pod {where}: {error}") from error
    finally:
        kube.commands.remove(command)


async def _outcome(stream: aiohttp.ClientWebSocketResponse, where: str) -> Outcome:
    channels: dict[int, bytearray] = {_STDOUT: bytearray(), _STDERR: bytearray(), _STATUS: bytearray()}
    async for message in stream:
        if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
            continue
        channels.setdefault(message.data[0], bytearray()).extend(message.data[1:])
        if sum(map(len, channels.values())) > LARGEST:
            raise Unreachable("kubelet", f"pod {where}: more than {LARGEST} bytes of output")
    if not channels[_STATUS]:
        raise Unreachable("kubelet", f"pod {where}: the connection ended before the command did")
    output, errors = (channels[channel].decode(errors="replace") for channel in (_STDOUT, _STDERR))
    return Outcome(_code(bytes(channels[_STATUS]), where), output, errors)


def _code(status: bytes, where: str) -> int:
    """The exit code in the metav1.Status that ends the stream."""
    try:
        result = msgspec.json.decode(status)
    except msgspec.DecodeError as error:
        raise Unreachable("kubelet", f"pod {where}: {error}") from error
    if result.get("status") == "Success":
        return 0
    for cause in (result.get("details") or {}).get("causes") or ():
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    raise Unreachable("kubelet", f"pod {where}: {result.get('message') or status!r}")
