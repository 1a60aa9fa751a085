-- The journal, version 1. A coordination's row says how it stands; while it is open, its later
-- records stand in coordination_records. There is no log behind these tables: they are written by
-- the commit that makes a record stand. distributed_locks and lock_wait_queue are the lock
-- managers' (0001_locks.sql), made before these.
-- What a caller gave is JSON and not JSONB, so that it comes back as it was given: the order of
-- keys, the form of numbers, and NUL, which JSONB refuses.

CREATE TABLE journal_meta (
    key VARCHAR(50) COLLATE "C" PRIMARY KEY,
    value TEXT NOT NULL
);

-- The processes that have the journal open. Each holds the session advisory lock of its key. Who
-- closes removes its row.
CREATE TABLE journal_instances (
    instance_id VARCHAR(128) COLLATE "C" PRIMARY KEY,
    lock_key BIGINT NOT NULL,
    machine TEXT NOT NULL,
    process TEXT NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT clock_timestamp(),
    heartbeat_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

-- 'version' counts the records: whoever adds some says how many there were, and is refused when
-- there are others, so that nobody writes about what it has not seen.
CREATE TABLE coordination_transactions (
    coordination_id VARCHAR(128) COLLATE "C" PRIMARY KEY,
    coordination_type VARCHAR(50) COLLATE "C" NOT NULL,
    participating_stores TEXT[] NOT NULL,
    operations JSON NOT NULL,
    state VARCHAR(20) COLLATE "C" NOT NULL DEFAULT 'initiated',
    timeout_seconds BIGINT NOT NULL,
    consistency_level VARCHAR(20) COLLATE "C" NOT NULL,
    metadata JSON,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP,
    completed_at TIMESTAMP WITH TIME ZONE,
    error_message TEXT,

    position BIGINT GENERATED ALWAYS AS IDENTITY,
    version BIGINT NOT NULL,
    owner VARCHAR(128) COLLATE "C" NOT NULL,
    epoch INTEGER NOT NULL,
    begun_by VARCHAR(128) COLLATE "C" NOT NULL,
    begun_epoch INTEGER NOT NULL,
    timeout_us BIGINT NOT NULL,
    lock_tokens BIGINT[] NOT NULL,
    decision VARCHAR(10) COLLATE "C",
    reason_code TEXT,
    reason_message TEXT,
    outcome JSON,
    stores_summary JSON NOT NULL,
    steps_summary JSON NOT NULL,

    CONSTRAINT valid_state CHECK (state IN (
        'initiated', 'preparing', 'prepared', 'committing',
        'committed', 'aborting', 'aborted', 'failed'
    )),
    CONSTRAINT valid_coordination_type CHECK (coordination_type IN (
        'two_phase_commit', 'saga_orchestration', 'saga_choreography',
        'event_sourcing', 'eventual_consistency'
    )),
    CONSTRAINT valid_decision CHECK (decision IN ('COMMIT', 'ABORT'))
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_cost_delay = 0
);

-- The records after the begin, which is in the row itself; gone when the coordination has ended.
CREATE TABLE coordination_records (
    coordination_id VARCHAR(128) COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    epoch INTEGER NOT NULL,
    kind VARCHAR(20) COLLATE "C" NOT NULL,
    recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
    body TEXT NOT NULL,

    PRIMARY KEY (coordination_id, version)
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_cost_delay = 0
);

-- Written with its coordination's row, in one transaction: a reference would only cost. An
-- operation's id is its caller's and unique within one coordination only, so the key has both.
CREATE TABLE coordination_operations (
    operation_id TEXT COLLATE "C" NOT NULL,
    coordination_id VARCHAR(128) COLLATE "C" NOT NULL,
    store_name VARCHAR(128) COLLATE "C" NOT NULL,
    operation_type TEXT NOT NULL,
    operation_data JSON NOT NULL,
    sequence_number INTEGER NOT NULL,
    state VARCHAR(20) COLLATE "C" NOT NULL DEFAULT 'pending',
    retry_count BIGINT DEFAULT 0,
    max_retries BIGINT DEFAULT 3,
    error_message TEXT,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP,
    executed_at TIMESTAMP WITH TIME ZONE,
    completed_at TIMESTAMP WITH TIME ZONE,

    PRIMARY KEY (coordination_id, operation_id),
    CONSTRAINT valid_operation_state CHECK (state IN (
        'pending', 'executing', 'completed', 'failed', 'retrying', 'compensating', 'compensated'
    ))
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 40000,
    autovacuum_vacuum_cost_delay = 0
);

CREATE TABLE consensus_log (
    log_index BIGSERIAL PRIMARY KEY,
    term_number INTEGER NOT NULL,
    coordination_id VARCHAR(128) COLLATE "C" NOT NULL,
    decision_type VARCHAR(50) NOT NULL,
    decision_data JSONB NOT NULL,
    evidence JSONB,
    proposed_by VARCHAR(128) NOT NULL,
    proposed_at TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP,
    committed_at TIMESTAMP WITH TIME ZONE,
    applied_at TIMESTAMP WITH TIME ZONE
);

CREATE INDEX idx_coordination_transactions_state ON coordination_transactions(state);
CREATE INDEX idx_coordination_transactions_created_at ON coordination_transactions(created_at);
-- What may have to be taken over.
CREATE INDEX idx_coordination_transactions_open ON coordination_transactions(owner)
    WHERE completed_at IS NULL;
CREATE INDEX idx_coordination_operations_coordination_id ON coordination_operations(coordination_id);
CREATE INDEX idx_coordination_operations_state ON coordination_operations(state);
CREATE INDEX idx_consensus_log_coordination_id ON consensus_log(coordination_id);

-- One batch of records, all of it or nothing: UJ001 says that some row is not as its writer
-- believes, a duplicate key that somebody else's begin stands.
-- b_: what begins; s_: how those that began before stand from here on; r_: records to keep;
-- o_: operations of what begins; p_: operations that have moved.
CREATE FUNCTION unanimity_journal_write(
    b_id text[], b_type text[], b_stores text[], b_operations text[], b_state text[],
    b_consistency text[], b_metadata text[], b_created timestamptz[], b_updated timestamptz[],
    b_completed timestamptz[], b_error text[], b_version bigint[], b_owner text[], b_epoch int[],
    b_begun_by text[], b_begun_epoch int[], b_timeout_us bigint[], b_locks text[],
    b_decision text[], b_reason_code text[], b_reason_message text[], b_outcome text[],
    b_stores_summary text[], b_steps_summary text[],
    s_id text[], s_known bigint[], s_version bigint[], s_state text[], s_updated timestamptz[],
    s_completed timestamptz[], s_error text[], s_owner text[], s_epoch int[], s_decision text[],
    s_reason_code text[], s_reason_message text[], s_outcome text[], s_stores_summary text[],
    s_steps_summary text[],
    r_id text[], r_version bigint[], r_epoch int[], r_kind text[], r_at timestamptz[],
    r_body text[],
    o_coordination text[], o_id text[], o_store text[], o_type text[], o_data text[],
    o_sequence int[], o_max_retries bigint[], o_created timestamptz[], o_state text[],
    o_retries bigint[], o_error text[], o_executed timestamptz[], o_completed timestamptz[],
    p_coordination text[], p_id text[], p_state text[], p_retries bigint[], p_error text[],
    p_executed timestamptz[], p_completed timestamptz[]
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    written bigint;
BEGIN
    IF cardinality(b_id) > 0 THEN
        INSERT INTO coordination_transactions (
            coordination_id, coordination_type, participating_stores, operations, state,
            timeout_seconds, consistency_level, metadata, created_at, updated_at, completed_at,
            error_message, version, owner, epoch, begun_by, begun_epoch, timeout_us, lock_tokens,
            decision, reason_code, reason_message, outcome, stores_summary, steps_summary)
        SELECT b.id, b.type, b.stores::text[], b.operations::json, b.state,
            (b.timeout_us + 999999) / 1000000, b.consistency, b.metadata::json, b.created,
            b.updated, b.completed, b.error, b.version, b.owner, b.epoch, b.begun_by,
            b.begun_epoch, b.timeout_us, b.locks::bigint[], b.decision, b.reason_code,
            b.reason_message, b.outcome::json, b.stores_summary::json, b.steps_summary::json
        FROM unnest(b_id, b_type, b_stores, b_operations, b_state, b_consistency, b_metadata,
            b_created, b_updated, b_completed, b_error, b_version, b_owner, b_epoch, b_begun_by,
            b_begun_epoch, b_timeout_us, b_locks, b_decision, b_reason_code, b_reason_message,
            b_outcome, b_stores_summary, b_steps_summary)
            AS b(id, type, stores, operations, state, consistency, metadata, created, updated,
            completed, error, version, owner, epoch, begun_by, begun_epoch, timeout_us, locks,
            decision, reason_code, reason_message, outcome, stores_summary, steps_summary);
        INSERT INTO coordination_operations (
            coordination_id, operation_id, store_name, operation_type, operation_data,
            sequence_number, max_retries, created_at, state, retry_count, error_message,
            executed_at, completed_at)
        SELECT o.coordination, o.id, o.store, o.type, o.data::json, o.sequence, o.max_retries,
            o.created, o.state, o.retries, o.error, o.executed, o.completed
        FROM unnest(o_coordination, o_id, o_store, o_type, o_data, o_sequence, o_max_retries,
            o_created, o_state, o_retries, o_error, o_executed, o_completed)
            AS o(coordination, id, store, type, data, sequence, max_retries, created, state,
            retries, error, executed, completed);
    END IF;
    IF cardinality(s_id) > 0 THEN
        UPDATE coordination_transactions t SET
            version = s.version, state = s.state, updated_at = s.updated,
            completed_at = s.completed, error_message = s.error, owner = s.owner,
            epoch = s.epoch, decision = s.decision, reason_code = s.reason_code,
            reason_message = s.reason_message, outcome = s.outcome::json,
            stores_summary = s.stores_summary::json, steps_summary = s.steps_summary::json
        FROM unnest(s_id, s_known, s_version, s_state, s_updated, s_completed, s_error, s_owner,
            s_epoch, s_decision, s_reason_code, s_reason_message, s_outcome, s_stores_summary,
            s_steps_summary)
            AS s(id, known, version, state, updated, completed, error, owner, epoch, decision,
            reason_code, reason_message, outcome, stores_summary, steps_summary)
        WHERE t.coordination_id = s.id AND t.version = s.known;
        GET DIAGNOSTICS written = ROW_COUNT;
        IF written <> cardinality(s_id) THEN
            RAISE EXCEPTION 'a coordination has other records than its writer knows'
                USING ERRCODE = 'UJ001';
        END IF;
        DELETE FROM coordination_records r
        USING unnest(s_id, s_completed, s_known) AS s(id, completed, known)
        WHERE s.completed IS NOT NULL AND s.known > 1 AND r.coordination_id = s.id;
    END IF;
    IF cardinality(r_id) > 0 THEN
        INSERT INTO coordination_records
            (coordination_id, version, epoch, kind, recorded_at, body)
        SELECT * FROM unnest(r_id, r_version, r_epoch, r_kind, r_at, r_body);
    END IF;
    IF cardinality(p_id) > 0 THEN
        UPDATE coordination_operations t SET
            state = p.state, retry_count = p.retries, error_message = p.error,
            executed_at = p.executed, completed_at = p.completed
        FROM unnest(p_coordination, p_id, p_state, p_retries, p_error, p_executed, p_completed)
            AS p(coordination, id, state, retries, error, executed, completed)
        WHERE t.coordination_id = p.coordination AND t.operation_id = p.id;
    END IF;
END $$;
