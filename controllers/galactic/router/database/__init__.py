"""Durable state in PostgreSQL: the present tables, and an append-only history of them.

session         one connection: psycopg's errors become Galactic's, and no request outlasts its time
migration       the schema, brought up to date by the numbered SQL files of migrations/
backlog         the changes that are not written yet, bounded; one transaction of them. No I/O
restore         the database's rows as tables: for a comparison, and for a router whose broker is empty
transactions    fenced by term, each applied once even if its connection breaks
history_writer  the task that ties these together; nothing on the way of a route waits for it
retention       deletes old periods and usage, in small transactions
usage           the task that records the traffic of attachments by day
usage_transactions  what it adds, and the report
history         queries: which attachment held an address, and when
lock            the election among standalone routers
metrics         ``galactic_router_database_…``
"""
