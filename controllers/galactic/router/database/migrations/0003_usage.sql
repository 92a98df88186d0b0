-- Traffic by day, and how far each node's sums were added to it.
--
-- A node publishes sums that only rise. Only what a sum is above the one in usage_counter is added to usage, in the same
-- transaction, so that a message may come twice, late or not at all. A sum counts only for an attachment that a router
-- has recorded on that node: the index finds the period by its epoch, which hardly two paths share.

CREATE TABLE galactic.usage (
    day               date NOT NULL,
    cluster           text NOT NULL,
    vpc               bigint NOT NULL,
    attachment        text NOT NULL,
    vpc_name          text NOT NULL DEFAULT '',
    seconds           bigint NOT NULL DEFAULT 0,
    sent_bytes        bigint NOT NULL DEFAULT 0,
    sent_packets      bigint NOT NULL DEFAULT 0,
    received_bytes    bigint NOT NULL DEFAULT 0,
    received_packets  bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (day, cluster, vpc, attachment)
);

CREATE TABLE galactic.usage_counter (
    cluster           text NOT NULL,
    node              text NOT NULL,
    ledger            text NOT NULL,
    vpc               bigint NOT NULL,
    function          integer NOT NULL,
    epoch             bigint NOT NULL,
    attachment        text NOT NULL,
    seconds           bigint NOT NULL,
    sent_bytes        bigint NOT NULL,
    sent_packets      bigint NOT NULL,
    received_bytes    bigint NOT NULL,
    received_packets  bigint NOT NULL,
    seen              timestamptz NOT NULL,
    PRIMARY KEY (cluster, node, ledger, vpc, function, epoch)
);
CREATE INDEX usage_counter_seen ON galactic.usage_counter (seen);
CREATE INDEX period_path ON galactic.period (epoch, vpc, function);
