-- The journal, version 4. Event sourcing: events in one order over all streams, and how far each
-- store's projection of them is. Events are never removed, also when the coordination that appended
-- them is. A version that does not know them would not give their streams' versions on, so it must
-- not open this file.

-- The log's record that appended an event stands beside it: a process whose view of the log is
-- behind these tables must not count what it has still to read.
CREATE TABLE events (
    global_position INTEGER PRIMARY KEY,
    stream_id VARCHAR(128) NOT NULL,
    version INTEGER NOT NULL,
    event_type VARCHAR(128) NOT NULL,
    data TEXT NOT NULL,
    metadata TEXT NOT NULL,
    coordination_id VARCHAR(128) NOT NULL,
    recorded_at TEXT NOT NULL,
    log_position INTEGER NOT NULL,

    UNIQUE (stream_id, version)
);

CREATE TABLE event_snapshots (
    stream_id VARCHAR(128) NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL,
    state TEXT NOT NULL,
    taken_at TEXT NOT NULL
) WITHOUT ROWID;

-- 'generation' grows when a projection is begun anew or redriven, so that whoever runs it notices.
CREATE TABLE projections (
    store_name VARCHAR(128) NOT NULL PRIMARY KEY,
    position INTEGER NOT NULL DEFAULT 0,
    generation INTEGER NOT NULL DEFAULT 1,
    owner VARCHAR(128),
    parked_position INTEGER,
    parked_coordination VARCHAR(128),
    parked_event_type VARCHAR(128),
    parked_attempts INTEGER,
    parked_message TEXT,
    parked_at TEXT,
    updated_at TEXT NOT NULL
) WITHOUT ROWID;
