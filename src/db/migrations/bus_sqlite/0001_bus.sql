-- The durable bus, version 1. A line is what one group has not handled yet of one stream: it stands
-- here exactly while there is such an event, and belongs to at most one process (owner), which alone
-- hands its events over. Its next event is the first that was redriven, else the first behind
-- 'handled' that the group wishes for. 'head' and 'kind' tell that event's place and type,
-- 'deaths' how many owners ended while it was out.

-- Positions are given by whoever publishes, in the transaction, and never again.
CREATE TABLE bus_meta (
    last_position INTEGER NOT NULL
);
INSERT INTO bus_meta VALUES (0);

CREATE TABLE bus_events (
    position INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL UNIQUE,
    stream TEXT NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    published_at INTEGER NOT NULL
);
CREATE INDEX idx_bus_events_stream ON bus_events(stream, position);

-- A group with an owner is one subscription's own, and goes with that process.
CREATE TABLE bus_groups (
    group_id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    owner TEXT
);

-- What a group is told of, and from which position on; the empty kind is every kind.
CREATE TABLE bus_wishes (
    group_id INTEGER NOT NULL REFERENCES bus_groups(group_id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (group_id, kind)
) WITHOUT ROWID;

CREATE TABLE bus_lines (
    group_id INTEGER NOT NULL REFERENCES bus_groups(group_id) ON DELETE CASCADE,
    stream TEXT NOT NULL,
    handled INTEGER NOT NULL,
    head INTEGER NOT NULL,
    kind TEXT NOT NULL,
    owner TEXT,
    deaths INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (group_id, stream)
) WITHOUT ROWID;
CREATE INDEX idx_bus_lines_free ON bus_lines(group_id, head) WHERE owner IS NULL;
CREATE INDEX idx_bus_lines_owner ON bus_lines(owner) WHERE owner IS NOT NULL;

-- Parked events are whole here, so that retention need not ask for them.
CREATE TABLE bus_parked (
    group_id INTEGER NOT NULL REFERENCES bus_groups(group_id) ON DELETE CASCADE,
    event_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    stream TEXT NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    message TEXT NOT NULL,
    parked_at INTEGER NOT NULL,
    is_redriven INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (group_id, event_id)
) WITHOUT ROWID;
CREATE INDEX idx_bus_parked_at ON bus_parked(parked_at);
CREATE INDEX idx_bus_parked_redriven ON bus_parked(group_id, stream, position) WHERE is_redriven = 1;
