"""``galactic history ADDRESS``: holders of an address in a VPC over time, from the router's database."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from galactic.cli.render import Form, Output, document, show, table
from galactic.errors import GalacticError, Rejected, Unreachable
from galactic.names import function_hex, parse_vpc, vpc_hex

if TYPE_CHECKING:
    from galactic.router.database.history import Holding

NOT_FOUND, USAGE, UNREACHABLE = 1, 2, 4
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGO: Final = re.compile(r"(\d+)\s*([smhdw])")
LIMIT: Final = 1000


def history(  # noqa: PLR0917 - as many as there are options
    address: Annotated[str, typer.Argument(help="Address or network: 10.1.1.2, fd00::/64.")],
    vpc: Annotated[
        str | None,
        typer.Option(help="Only this VPC: NAMESPACE/NAME, or its identifier if the VPC was deleted."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            help="Holder at this time: '2026-11-17 14:00' (local time), 2026-11-17T14:00Z, 3d (ago)."
        ),
    ] = None,
    since: Annotated[str | None, typer.Option(help="Holders since this time; forms as for --at.")] = None,
    output: Form = Output.TABLE,
    database_url: Annotated[
        str, typer.Option(envvar="GALACTIC_DATABASE_URL", help="The router's database: postgresql://…")
    ] = "",
) -> None:
    """Show the holders of an address in a VPC, and when. Without --at or --since: all holders, latest first.

    Exit code: 0 found, 1 no holder, 2 usage error, 4 the database does not answer.
    """
    now = datetime.now(UTC)
    if at and since:
        _stop(USAGE, "--at is one time, --since a time until now: give one of them")
    if not database_url:
        _stop(USAGE, "no database: give --database-url or GALACTIC_DATABASE_URL, postgresql://…")
    network = _parsed(_network, address)
    identifier = _identifier(vpc) if vpc else None
    given = at or since
    begin = _parsed(lambda text: moment(text, now), given) if given else None
    try:
        entries = asyncio.run(_entries(database_url, str(network), identifier, begin, begin if at else None))
    except Unreachable as error:
        _stop(UNREACHABLE, str(error))
    except GalacticError as error:
        _stop(USAGE, str(error))
    if not document([_plain(holding) for holding in entries], output) and entries:
        _print(entries, wide=output is Output.WIDE)
    if len(entries) == LIMIT:
        typer.echo(
            f"galactic history: only the latest {LIMIT} entries are shown; limit them by --vpc or --since",
            err=True,
        )
    if not entries:
        when = (
            f" at {begin.astimezone():%Y-%m-%d %H:%M:%S %Z}"
            if begin and at
            else " since then"
            if begin
            else ""
        )
        _stop(NOT_FOUND, f"no holder of {address}{f' in VPC {vpc}' if vpc else ''}{when}")


def moment(text: str, now: datetime) -> datetime:
    """The time: ISO 8601, in the local zone without an offset, or an age: 90s, 30m, 12h, 3d, 2w.

    Raises Rejected.
    """
    given = text.strip()
    try:
        if ago := _AGO.fullmatch(given.removesuffix("ago").strip()):
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        if given in ("now", "yesterday"):
            return now - timedelta(days=given == "yesterday")
        return datetime.fromisoformat(given).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Rejected(
            f"{text!r} is not a time; write 2026-11-17, '2026-11-17 14:00', 2026-11-17T14:00:00Z, or 3d for 3 days ago "
            "(s, m, h, d, w)"
        ) from error


async def _entries(
    url: str, network: str, vpc: int | None, since: datetime | None, until: datetime | None
) -> "list[Holding]":
    # Imported here: psycopg would cost every other command 0.3 s.
    from galactic.router.database.history import history  # noqa: PLC0415
    from galactic.router.database.migration import VERSION, newer, schema_version  # noqa: PLC0415
    from galactic.router.database.session import session  # noqa: PLC0415

    async with session(url, application_name="galactic history") as database:
        version = await database.do(schema_version(database.connection))
        if version is None:
            raise Rejected("no router has written into this database yet", field="database_url")
        if version > VERSION:
            raise newer(version)
        return await database.do(
            history(database.connection, network, vpc=vpc, since=since, until=until, limit=LIMIT)
        )


def _identifier(vpc: str) -> int:
    """The VPC's identifier: as given, or from the API server."""
    if "/" not in vpc:
        return int(_parsed(parse_vpc, vpc.rjust(12, "0")))
    from galactic.cli.cluster_options import ClusterOptions, code, sentence  # noqa: PLC0415
    from galactic.kube.resources import VPCS  # noqa: PLC0415

    namespace, _, name = vpc.partition("/")
    options = ClusterOptions()

    async def asked() -> str:
        async with options.kube() as kube:
            vpc_object = await kube.get(VPCS, name, namespace)
            return str((vpc_object.get("status") or {}).get("identifier") or "")

    try:
        identifier = options.run(asked())
    except GalacticError as error:
        _stop(code(error), f"{sentence(error)}; or give --vpc its identifier (12 hex digits)")
    if not identifier:
        _stop(NOT_FOUND, f"VPC {vpc} has no identifier yet, and so no history")
    return int(_parsed(parse_vpc, identifier))


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise Rejected(
            f"{text!r} is not an address: {error}; write 10.1.1.2 or 10.1.1.0/24", field="ADDRESS"
        ) from error


def _parsed(parser: Callable[[str], Any], text: str) -> Any:
    try:
        return parser(text)
    except Rejected as error:
        _stop(USAGE, str(error))


def _stop(code: int, sentence: str) -> Any:
    typer.echo(f"galactic history: {sentence}", err=True)
    raise typer.Exit(code)


def _plain(holding: "Holding") -> dict[str, Any]:
    """The entry as JSON types."""
    plain = asdict(holding) | {"vpc": vpc_hex(holding.vpc), "function": function_hex(holding.function)}
    return {
        name: value.isoformat() if isinstance(value, datetime) else value for name, value in plain.items()
    }


def _print(entries: "list[Holding]", *, wide: bool) -> None:
    header = ["VPC", "NETWORK", "ATTACHMENT", "NODE", "SINCE", "UNTIL"]
    rows = []
    for entry in entries:
        row = [
            vpc_hex(entry.vpc),
            entry.network,
            entry.attachment,
            entry.node,
            _time(entry.since, entry.began_exactly),
            _until(entry),
        ]
        rows.append(
            [*row, *([entry.cluster, entry.sid, str(entry.epoch), str(entry.revision)] if wide else [])]
        )
    show(table([*header, *(["CLUSTER", "SID", "EPOCH", "REVISION"] if wide else [])], rows))
    if any(not (entry.began_exactly and entry.ended_exactly) for entry in entries):
        print("~ at the latest then: no router was running")


def _until(holding: "Holding") -> str:
    return _time(holding.until, holding.ended_exactly) if holding.until else "now"


def _time(at: datetime, exactly: bool) -> str:
    return f"{'' if exactly else '~'}{at.astimezone():%Y-%m-%d %H:%M:%S}"
