"""Endpoints as they are, periods as they were and are, and who writes.

A period is found by one index, whatever is asked: VPC (as a range of one, which GiST knows without an extension),
network, time. The same index is the promise that nobody ever held the same network of a VPC at the same time.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """The tables."""
    op.execute(
        """
        CREATE TABLE galactic.writer (
            single    boolean PRIMARY KEY DEFAULT true CHECK (single),
            term      bigint NOT NULL,
            leader    text NOT NULL,
            sequence  bigint NOT NULL,
            moment    timestamptz
        );
        INSERT INTO galactic.writer (term, leader, sequence) VALUES (0, '', 0);

        CREATE TABLE galactic.endpoint (
            vpc         bigint NOT NULL,
            cluster     text NOT NULL,
            function    integer NOT NULL,
            node        text NOT NULL,
            attachment  text NOT NULL,
            sid         inet NOT NULL,
            networks    cidr[] NOT NULL,
            epoch       bigint NOT NULL,
            revision    bigint NOT NULL,
            since       timestamptz NOT NULL,
            PRIMARY KEY (vpc, cluster, function)
        );

        CREATE TABLE galactic.period (
            id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            vpc            bigint NOT NULL,
            network        cidr NOT NULL,
            during         tstzrange NOT NULL CHECK (NOT isempty(during) AND NOT lower_inf(during)),
            cluster        text NOT NULL,
            function       integer NOT NULL,
            node           text NOT NULL,
            attachment     text NOT NULL,
            sid            inet NOT NULL,
            epoch          bigint NOT NULL,
            revision       bigint NOT NULL,
            began_exactly  boolean NOT NULL DEFAULT true,
            began_after    timestamptz,
            ended_exactly  boolean NOT NULL DEFAULT true,
            ended_after    timestamptz,
            CONSTRAINT one_holder EXCLUDE USING gist (
                int8range(vpc, vpc, '[]') WITH &&, network inet_ops WITH =, during WITH &&
            )
        );
        CREATE UNIQUE INDEX period_open ON galactic.period (vpc, network) WHERE upper_inf(during);
        COMMENT ON COLUMN galactic.period.began_exactly IS
            'false: nobody was there to see it; it began between began_after (if known) and the start of during';
        """
    )
