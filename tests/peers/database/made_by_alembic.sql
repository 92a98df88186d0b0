-- A database that a router with Alembic made and wrote into: pg_dump --inserts --no-owner, without its settings.

CREATE SCHEMA galactic;

CREATE TABLE galactic.endpoint (
    vpc bigint NOT NULL,
    cluster text NOT NULL,
    function integer NOT NULL,
    node text NOT NULL,
    attachment text NOT NULL,
    sid inet NOT NULL,
    networks cidr[] NOT NULL,
    epoch bigint NOT NULL,
    revision bigint NOT NULL,
    since timestamp with time zone NOT NULL
);

CREATE TABLE galactic.period (
    id bigint NOT NULL,
    vpc bigint NOT NULL,
    network cidr NOT NULL,
    during tstzrange NOT NULL,
    cluster text NOT NULL,
    function integer NOT NULL,
    node text NOT NULL,
    attachment text NOT NULL,
    sid inet NOT NULL,
    epoch bigint NOT NULL,
    revision bigint NOT NULL,
    began_exactly boolean DEFAULT true NOT NULL,
    began_after timestamp with time zone,
    ended_exactly boolean DEFAULT true NOT NULL,
    ended_after timestamp with time zone,
    CONSTRAINT period_during_check CHECK (((NOT isempty(during)) AND (NOT lower_inf(during))))
);

COMMENT ON COLUMN galactic.period.began_exactly IS 'false: nobody was there to see it; it began between began_after (if known) and the start of during';

ALTER TABLE galactic.period ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME galactic.period_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE galactic.schema_version (
    version_num character varying(32) NOT NULL
);

CREATE TABLE galactic.writer (
    single boolean DEFAULT true NOT NULL,
    term bigint NOT NULL,
    leader text NOT NULL,
    sequence bigint NOT NULL,
    moment timestamp with time zone,
    CONSTRAINT writer_single_check CHECK (single)
);

INSERT INTO galactic.endpoint VALUES (1234, 'default', 2, 'n1', 'ns/a2', '2001:db8:ff01:100::4d2:2', '{10.1.1.2/32,fd00::2/128}', 2, 7, '2026-11-29 10:53:54.651211+00');
INSERT INTO galactic.endpoint VALUES (1234, 'default', 1, 'n2', 'ns/a1', '2001:db8:ff01:200::4d2:1', '{10.1.1.1/32}', 3, 7, '2026-11-29 10:53:54.698159+00');

INSERT INTO galactic.period OVERRIDING SYSTEM VALUE VALUES (2, 1234, '10.1.1.2/32', '["2026-11-29 10:53:54.651211+00",)', 'default', 2, 'n1', 'ns/a2', '2001:db8:ff01:100::4d2:2', 2, 7, false, NULL, true, NULL);
INSERT INTO galactic.period OVERRIDING SYSTEM VALUE VALUES (3, 1234, 'fd00::2/128', '["2026-11-29 10:53:54.651211+00",)', 'default', 2, 'n1', 'ns/a2', '2001:db8:ff01:100::4d2:2', 2, 7, false, NULL, true, NULL);
INSERT INTO galactic.period OVERRIDING SYSTEM VALUE VALUES (1, 1234, '10.1.1.1/32', '["2026-11-29 10:53:54.651211+00","2026-11-29 10:53:54.697952+00")', 'default', 1, 'n1', 'ns/a1', '2001:db8:ff01:100::4d2:1', 1, 7, false, NULL, true, NULL);
INSERT INTO galactic.period OVERRIDING SYSTEM VALUE VALUES (4, 1234, '10.1.1.1/32', '["2026-11-29 10:53:54.698159+00",)', 'default', 1, 'n2', 'ns/a1', '2001:db8:ff01:200::4d2:1', 3, 7, true, NULL, true, NULL);

INSERT INTO galactic.schema_version VALUES ('0002');

INSERT INTO galactic.writer VALUES (true, 1, 'r', 2, '2026-11-29 10:53:54.698159+00');

SELECT pg_catalog.setval('galactic.period_id_seq', 4, true);

ALTER TABLE ONLY galactic.endpoint
    ADD CONSTRAINT endpoint_pkey PRIMARY KEY (vpc, cluster, function);

ALTER TABLE ONLY galactic.period
    ADD CONSTRAINT period_pkey PRIMARY KEY (id);

ALTER TABLE ONLY galactic.schema_version
    ADD CONSTRAINT schema_version_pkc PRIMARY KEY (version_num);

ALTER TABLE ONLY galactic.writer
    ADD CONSTRAINT writer_pkey PRIMARY KEY (single);

CREATE INDEX period_held ON galactic.period USING gist (network inet_ops, int8range(vpc, vpc, '[]'::text), during);

CREATE UNIQUE INDEX period_open ON galactic.period USING btree (vpc, network) WHERE upper_inf(during);

CREATE INDEX period_over ON galactic.period USING btree (upper(during)) WHERE (NOT upper_inf(during));
