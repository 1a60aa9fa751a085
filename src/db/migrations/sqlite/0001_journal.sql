-- The journal, version 1. Rows of journal_log are the truth, in one total order; the tables of
-- coordinations and operations are a projection of them, complete up to the 'watermark' of
-- journal_meta. journal_log has no second index on purpose: it is the hot path of every commit;
-- positions are given by the writer and never again, which AUTOINCREMENT would pay a page a commit for.

CREATE TABLE journal_meta (
    key TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

INSERT INTO journal_meta (key, value) VALUES ('watermark', '0');

CREATE TABLE journal_log (
    position INTEGER PRIMARY KEY,
    coordination_id VARCHAR(128) NOT NULL,
    kind VARCHAR(20) NOT NULL,
    owner VARCHAR(128) NOT NULL,
    epoch INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    body TEXT NOT NULL
);

CREATE TABLE coordination_transactions (
    coordination_id VARCHAR(128) PRIMARY KEY,
    coordination_type VARCHAR(50) NOT NULL,
    participating_stores TEXT NOT NULL,
    operations TEXT NOT NULL,
    state VARCHAR(20) NOT NULL DEFAULT 'initiated',
    timeout_seconds INTEGER NOT NULL,
    consistency_level VARCHAR(20) NOT NULL,
    metadata TEXT,
    created_at TEXT DEFAULT CURRENT_TIMESTAMP,
    updated_at TEXT DEFAULT CURRENT_TIMESTAMP,
    completed_at TEXT,
    error_message TEXT,

    owner VARCHAR(128) NOT NULL,
    epoch INTEGER NOT NULL,
    timeout_us INTEGER NOT NULL,
    decision VARCHAR(10),
    reason_code VARCHAR(100),
    reason_message TEXT,
    outcome TEXT,
    stores_summary TEXT NOT NULL DEFAULT '[]',

    CONSTRAINT valid_state CHECK (state IN (
        'initiated', 'preparing', 'prepared', 'committing',
        'committed', 'aborting', 'aborted', 'failed'
    )),
    CONSTRAINT valid_coordination_type CHECK (coordination_type IN (
        'two_phase_commit', 'saga_orchestration', 'saga_choreography',
        'event_sourcing', 'eventual_consistency'
    )),
    CONSTRAINT valid_decision CHECK (decision IN ('COMMIT', 'ABORT'))
);

-- An operation's id is its caller's and unique within one coordination only, so the key has both.
CREATE TABLE coordination_operations (
    operation_id VARCHAR(128) NOT NULL,
    coordination_id VARCHAR(128) NOT NULL REFERENCES coordination_transactions(coordination_id),
    store_name VARCHAR(100) NOT NULL,
    operation_type VARCHAR(50) NOT NULL,
    operation_data TEXT NOT NULL,
    sequence_number INTEGER NOT NULL,
    state VARCHAR(20) NOT NULL DEFAULT 'pending',
    retry_count INTEGER DEFAULT 0,
    max_retries INTEGER DEFAULT 3,
    error_message TEXT,
    created_at TEXT DEFAULT CURRENT_TIMESTAMP,
    executed_at TEXT,
    completed_at TEXT,

    PRIMARY KEY (coordination_id, operation_id),
    CONSTRAINT valid_operation_state CHECK (state IN (
        'pending', 'executing', 'completed', 'failed', 'retrying', 'compensating', 'compensated'
    ))
) WITHOUT ROWID;

CREATE TABLE distributed_locks (
    lock_id VARCHAR(128) PRIMARY KEY,
    resource_id VARCHAR(256) NOT NULL,
    lock_type VARCHAR(20) NOT NULL,
    holder_id VARCHAR(128) NOT NULL,
    coordination_id VARCHAR(128) REFERENCES coordination_transactions(coordination_id),
    acquired_at TEXT DEFAULT CURRENT_TIMESTAMP,
    expires_at TEXT NOT NULL,
    renewed_at TEXT DEFAULT CURRENT_TIMESTAMP,
    metadata TEXT,

    CONSTRAINT valid_lock_type CHECK (lock_type IN (
        'exclusive', 'shared', 'intent_exclusive', 'intent_shared'
    ))
);

CREATE TABLE lock_wait_queue (
    wait_id VARCHAR(128) PRIMARY KEY,
    resource_id VARCHAR(256) NOT NULL,
    lock_type VARCHAR(20) NOT NULL,
    requester_id VARCHAR(128) NOT NULL,
    coordination_id VARCHAR(128) REFERENCES coordination_transactions(coordination_id),
    requested_at TEXT DEFAULT CURRENT_TIMESTAMP,
    timeout_at TEXT NOT NULL,
    position_in_queue INTEGER NOT NULL,
    metadata TEXT
);

CREATE TABLE consensus_log (
    log_index INTEGER PRIMARY KEY AUTOINCREMENT,
    term_number INTEGER NOT NULL,
    coordination_id VARCHAR(128) NOT NULL,
    decision_type VARCHAR(50) NOT NULL,
    decision_data TEXT NOT NULL,
    evidence TEXT,
    proposed_by VARCHAR(128) NOT NULL,
    proposed_at TEXT DEFAULT CURRENT_TIMESTAMP,
    committed_at TEXT,
    applied_at TEXT
);

CREATE INDEX idx_coordination_transactions_state ON coordination_transactions(state);
CREATE INDEX idx_coordination_transactions_created_at ON coordination_transactions(created_at);
CREATE INDEX idx_coordination_operations_coordination_id ON coordination_operations(coordination_id);
CREATE INDEX idx_coordination_operations_state ON coordination_operations(state);
CREATE INDEX idx_distributed_locks_resource_id ON distributed_locks(resource_id);
CREATE INDEX idx_distributed_locks_expires_at ON distributed_locks(expires_at);
-- Without these two, removing an old coordination would read every lock to check its reference.
CREATE INDEX idx_distributed_locks_coordination_id ON distributed_locks(coordination_id);
CREATE INDEX idx_lock_wait_queue_coordination_id ON lock_wait_queue(coordination_id);
CREATE INDEX idx_lock_wait_queue_resource_id ON lock_wait_queue(resource_id);
CREATE INDEX idx_lock_wait_queue_timeout_at ON lock_wait_queue(timeout_at);
CREATE INDEX idx_consensus_log_coordination_id ON consensus_log(coordination_id);
