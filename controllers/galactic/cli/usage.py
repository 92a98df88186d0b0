"""``galactic usage --month 2026-11``: traffic and attachment-hours of each VPC, from the router's database."""

import asyncio
import re
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from galactic.cli.history import NOT_FOUND, UNREACHABLE, USAGE
from galactic.cli.render import Form, Output, document, show, table
from galactic.cli.top import size
from galactic.errors import GalacticError, Rejected, Unreachable

if TYPE_CHECKING:
    from galactic.router.database.usage_transactions import Usage

_MONTH: Final = re.compile(r"(\d{4})-(\d{2})")


def usage(
    month: Annotated[
        str, typer.Option(help="Month in UTC, such as 2026-11; default: the current month.")
    ] = "",
    vpc: Annotated[str, typer.Option(help="Only this VPC: NAMESPACE/NAME or identifier.")] = "",
    *,
    by_attachment: Annotated[
        bool, typer.Option("--attachments", help="One row for each attachment.")
    ] = False,
    output: Form = Output.TABLE,
    database_url: Annotated[
        str, typer.Option(envvar="GALACTIC_DATABASE_URL", help="The router's database: postgresql://…")
    ] = "",
) -> None:
    """Report the traffic of each VPC in a month, and the hours for which its attachments were on a node.

    Bytes include Ethernet headers. Exit code: 0 found, 1 no usage, 2 usage error, 4 the database does not answer.
    """
    if not database_url:
        _stop(USAGE, "no database: give --database-url or GALACTIC_DATABASE_URL, postgresql://…")
    try:
        first, end = days(month or f"{datetime.now(UTC):%Y-%m}")
        rows = asyncio.run(_report(database_url, first, end, by_attachment=by_attachment))
    except Unreachable as error:
        _stop(UNREACHABLE, str(error))
    except GalacticError as error:
        _stop(USAGE, str(error))
    found = [plain(row) for row in rows if not vpc or vpc in (row.vpc_name, plain(row)["vpc"])]
    if not document(found, output) and found:
        _print(found, by_attachment=by_attachment)
    if not found:
        _stop(NOT_FOUND, f"no usage{f' of VPC {vpc}' if vpc else ''} from {first} to before {end}")


def days(month: str) -> tuple[date, date]:
    """The first day of a month, and that of the next. Raises Rejected."""
    given = _MONTH.fullmatch(month.strip())
    try:
        first = date(int(given[1]), int(given[2]), 1) if given else None
        end = date(first.year + first.month // 12, first.month % 12 + 1, 1) if first else None
    except ValueError:
        first = end = None
    if first is None or end is None:
        raise Rejected(f"{month!r} is not a month: write 2026-11", field="--month")
    return first, end


async def _report(url: str, first: date, end: date, *, by_attachment: bool) -> "list[Usage]":
    # Imported here: psycopg would cost every other command 0.3 s.
    from galactic.router.database.migration import VERSION, newer, schema_version  # noqa: PLC0415
    from galactic.router.database.session import session  # noqa: PLC0415
    from galactic.router.database.usage_transactions import SINCE, report  # noqa: PLC0415

    async with session(url, application_name="galactic usage") as database:
        version = await database.do(schema_version(database.connection))
        if version is None or version < SINCE:
            raise Rejected(
                "no router that records usage has written into this database yet", field="database_url"
            )
        if version > VERSION:
            raise newer(version)
        return await database.do(report(database.connection, first, end, by_attachment=by_attachment))


def plain(row: "Usage") -> dict[str, Any]:
    """The row as JSON types. ``hours``: of all attachments together."""
    from galactic.names import vpc_hex  # noqa: PLC0415

    values = asdict(row) | {"vpc": vpc_hex(row.vpc), "hours": round(row.seconds / 3600, 2)}
    return {name: value for name, value in values.items() if value != ""}


def _stop(code: int, sentence: str) -> Any:
    typer.echo(f"galactic usage: {sentence}", err=True)
    raise typer.Exit(code)


def _print(rows: list[dict[str, Any]], *, by_attachment: bool) -> None:
    first = ("VPC", "ATTACHMENT") if by_attachment else ("VPC", "ATTACHMENTS")
    header = (*first, "HOURS", "SENT", "RECEIVED", "PACKETS SENT", "RECEIVED")
    lines = [
        (
            row.get("vpc_name", row["vpc"]),
            row["attachment"] if by_attachment else str(row["attachments"]),
            f"{row['hours']:.1f}",
            size(row["sent_bytes"]),
            size(row["received_bytes"]),
            str(row["sent_packets"]),
            str(row["received_packets"]),
        )
        for row in rows
    ]
    show(table(header, lines))
