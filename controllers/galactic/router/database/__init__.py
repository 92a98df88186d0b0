"""Durable state in PostgreSQL: what the table says now, and an append-only history of it.

backlog      pure: what is due, in order, bounded; what one transaction makes of it
session      one connection, the errors of which are ours, and which never hangs for good
migration    the schema, brought up to date by the numbered SQL files of migrations/
writer       the transactions: fenced by term, each done once whatever happens to the connection
chronicle    the task that ties these together; nothing on the routing path ever waits for it
retention    old history goes, a little at a time
history      questions: who held an address when, and what a router that starts has to know
lock         the election among standalone routers
"""
