-- Locks, version 1. The rules are those of src/protocol/claim.rs: a claim is granted when every
-- earlier one is compatible with it or its requester's own; holders come first, then upgrades, then
-- the others in the order of asking; what an own lock keeps waiting does not count.
-- Whoever changes the claims on a resource holds the advisory lock of its name to the end of the
-- transaction, and grants what became free in the same transaction. Several are taken in the order
-- of their keys. There is no reference to coordinations: their journal may stand elsewhere.

CREATE SEQUENCE lock_fencing_token_seq;

-- A process that holds or waits. It renews its heartbeat; who is silent for longer than its timeout
-- holds nothing any more.
CREATE TABLE lock_sessions (
    session_id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    machine VARCHAR(200) NOT NULL,
    process VARCHAR(100) NOT NULL,
    timeout_us BIGINT NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT clock_timestamp(),
    heartbeat_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT clock_timestamp()
);

-- Rows come and go at the rate of locks; a vacuum that waits for a share of the table or naps in
-- between would never catch up. "C" compares bytes, which is all that is needed.
CREATE TABLE distributed_locks (
    lock_id VARCHAR(320) COLLATE "C" PRIMARY KEY,
    resource_id VARCHAR(256) COLLATE "C" NOT NULL,
    lock_type VARCHAR(20) COLLATE "C" NOT NULL,
    holder_id VARCHAR(128) COLLATE "C" NOT NULL,
    coordination_id VARCHAR(128),
    acquired_at TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP,
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
    renewed_at TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP,
    metadata JSONB,

    session_id BIGINT NOT NULL,
    wait_id VARCHAR(128) COLLATE "C" NOT NULL,
    fencing_token BIGINT NOT NULL,
    working_since TIMESTAMP WITH TIME ZONE NOT NULL,
    is_protected BOOLEAN NOT NULL,

    CONSTRAINT valid_lock_type CHECK (lock_type IN (
        'exclusive', 'shared', 'intent_exclusive', 'intent_shared'
    ))
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_cost_delay = 0
);

CREATE TABLE lock_wait_queue (
    wait_id VARCHAR(128) COLLATE "C" PRIMARY KEY,
    resource_id VARCHAR(256) COLLATE "C" NOT NULL,
    lock_type VARCHAR(20) COLLATE "C" NOT NULL,
    requester_id VARCHAR(128) COLLATE "C" NOT NULL,
    coordination_id VARCHAR(128),
    requested_at TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP,
    timeout_at TIMESTAMP WITH TIME ZONE NOT NULL,
    position_in_queue BIGSERIAL NOT NULL,
    metadata JSONB,

    session_id BIGINT NOT NULL,
    lease_us BIGINT,
    working_since TIMESTAMP WITH TIME ZONE NOT NULL,
    is_protected BOOLEAN NOT NULL,
    -- Set when it was chosen as a deadlock's victim; from then on it waits for nothing.
    deadlock TEXT,

    CONSTRAINT valid_lock_type CHECK (lock_type IN (
        'exclusive', 'shared', 'intent_exclusive', 'intent_shared'
    ))
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_cost_delay = 0
);

CREATE INDEX idx_distributed_locks_resource_id ON distributed_locks(resource_id);
-- Locks without a lease hold until 'infinity'.
CREATE INDEX idx_distributed_locks_expires_at ON distributed_locks(expires_at)
    WHERE expires_at <> 'infinity';
CREATE INDEX idx_distributed_locks_holder_id ON distributed_locks(holder_id);
CREATE INDEX idx_lock_wait_queue_resource_id ON lock_wait_queue(resource_id);
CREATE INDEX idx_lock_wait_queue_timeout_at ON lock_wait_queue(timeout_at);

-- Gray's matrix, turned around.
CREATE FUNCTION unanimity_lock_conflict(one text, other text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE one
        WHEN 'exclusive' THEN true
        WHEN 'shared' THEN other IN ('exclusive', 'intent_exclusive')
        WHEN 'intent_exclusive' THEN other IN ('exclusive', 'shared')
        ELSE other = 'exclusive'
    END
$$;

CREATE FUNCTION unanimity_lock_serialise(p_resources text[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(key) FROM (
        SELECT DISTINCT hashtextextended(resource, 4077) AS key
        FROM unnest(p_resources) AS resource ORDER BY 1
    ) AS keys;
END $$;

-- Whether a claim is kept from being granted, by a holder or by one of those ahead of it.
CREATE FUNCTION unanimity_lock_is_blocked(
    p_resource text, p_requester text, p_mode text, p_ahead_requesters text[], p_ahead_modes text[]
) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM distributed_locks d WHERE d.resource_id = p_resource
        AND d.holder_id <> p_requester AND unanimity_lock_conflict(d.lock_type, p_mode)
    ) THEN
        RETURN true;
    END IF;
    RETURN cardinality(p_ahead_modes) > 0 AND EXISTS (
        SELECT FROM unnest(p_ahead_requesters, p_ahead_modes) AS a(requester, mode)
        WHERE a.requester <> p_requester AND unanimity_lock_conflict(a.mode, p_mode)
        AND NOT EXISTS (
            SELECT FROM distributed_locks o WHERE o.resource_id = p_resource
            AND o.holder_id = p_requester AND unanimity_lock_conflict(o.lock_type, a.mode)
        )
    );
END $$;

-- Who stands in the way of a claim, for people.
CREATE FUNCTION unanimity_lock_blockers(p_resource text, p_requester text, p_mode text)
RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
    RETURN (
        SELECT string_agg('''' || c.requester || ''' (' || c.kind || c.mode || ')', ', ') FROM (
            SELECT d.holder_id AS requester, '' AS kind, d.lock_type AS mode
            FROM distributed_locks d WHERE d.resource_id = p_resource
            AND d.holder_id <> p_requester AND unanimity_lock_conflict(d.lock_type, p_mode)
            UNION ALL
            SELECT q.requester_id, 'waiting, ', q.lock_type
            FROM lock_wait_queue q WHERE q.resource_id = p_resource AND q.deadlock IS NULL
            AND q.requester_id <> p_requester AND unanimity_lock_conflict(q.lock_type, p_mode)
            LIMIT 3
        ) AS c
    );
END $$;

-- Grants what can be granted of a resource's queue. Waits of p_session are returned; the sessions
-- of others are notified.
CREATE FUNCTION unanimity_lock_grant(p_resource text, p_session bigint)
RETURNS TABLE (wait text, token bigint, at timestamptz)
LANGUAGE plpgsql AS $$
DECLARE
    w record;
    is_again boolean := true;
    ahead_requesters text[];
    ahead_modes text[];
    has_more boolean;
BEGIN
    -- A grant makes the requester's other waits upgrades, so the queue is walked once more.
    WHILE is_again LOOP
        is_again := false;
        ahead_requesters := '{}';
        ahead_modes := '{}';
        FOR w IN
            SELECT q.*, EXISTS (
                SELECT FROM distributed_locks d
                WHERE d.resource_id = p_resource AND d.holder_id = q.requester_id
            ) AS is_upgrade
            FROM lock_wait_queue q WHERE q.resource_id = p_resource AND q.deadlock IS NULL
            ORDER BY is_upgrade DESC, q.position_in_queue
        LOOP
            has_more := EXISTS (
                SELECT FROM lock_wait_queue o WHERE o.resource_id = p_resource
                AND o.requester_id = w.requester_id AND o.wait_id <> w.wait_id
            );
            IF unanimity_lock_is_blocked(
                p_resource, w.requester_id, w.lock_type, ahead_requesters, ahead_modes
            ) THEN
                -- Nothing passes a new writer that waits, except what is its own.
                EXIT WHEN w.lock_type = 'exclusive' AND NOT w.is_upgrade AND NOT has_more;
                ahead_requesters := ahead_requesters || w.requester_id::text;
                ahead_modes := ahead_modes || w.lock_type::text;
                CONTINUE;
            END IF;
            wait := w.wait_id;
            token := nextval('lock_fencing_token_seq');
            at := clock_timestamp();
            DELETE FROM lock_wait_queue q WHERE q.wait_id = w.wait_id;
            INSERT INTO distributed_locks VALUES (
                p_resource || ':' || w.lock_type || ':' || token, p_resource, w.lock_type,
                w.requester_id, w.coordination_id, at,
                coalesce(at + w.lease_us * interval '1 microsecond', 'infinity'), at, w.metadata,
                w.session_id, w.wait_id, token, w.working_since, w.is_protected
            );
            IF w.session_id = p_session THEN
                RETURN NEXT;
            ELSE
                PERFORM pg_notify(
                    'unanimity_lock_' || w.session_id,
                    'granted ' || wait || ' ' || token || ' '
                    || (extract(epoch FROM at) * 1000000)::bigint
                );
            END IF;
            is_again := is_again OR has_more;
        END LOOP;
    END LOOP;
END $$;

-- One wish. Kinds: g granted, w waits, b neither, because it may not wait.
CREATE FUNCTION unanimity_lock_ask_one(
    p_session bigint, p_wait text, p_resource text, p_mode text, p_requester text,
    p_coordination text, p_timeout_us bigint, p_lease_us bigint, p_since timestamptz,
    p_protected boolean, p_again boolean
) RETURNS TABLE (kind text, id text, token bigint, at timestamptz, told text)
LANGUAGE plpgsql AS $$
DECLARE
    is_upgrade boolean;
    ahead_requesters text[];
    ahead_modes text[];
BEGIN
    IF p_again THEN
        -- It was sent before, and its answer was lost.
        RETURN QUERY SELECT 'g', p_wait, d.fencing_token, d.acquired_at, NULL
            FROM distributed_locks d WHERE d.resource_id = p_resource AND d.wait_id = p_wait
            AND d.session_id = p_session
            UNION ALL SELECT 'w', p_wait, NULL, NULL, NULL
            FROM lock_wait_queue q WHERE q.wait_id = p_wait AND q.session_id = p_session;
        IF FOUND THEN
            RETURN;
        END IF;
        -- Of a session that is over.
        DELETE FROM lock_wait_queue q WHERE q.wait_id = p_wait;
        DELETE FROM distributed_locks d WHERE d.resource_id = p_resource AND d.wait_id = p_wait;
    END IF;
    DELETE FROM distributed_locks d
        WHERE d.resource_id = p_resource AND d.expires_at <= clock_timestamp();
    IF FOUND THEN
        RETURN QUERY SELECT 'g', g.wait, g.token, g.at, NULL
            FROM unanimity_lock_grant(p_resource, p_session) g;
    END IF;
    is_upgrade := EXISTS (
        SELECT FROM distributed_locks d
        WHERE d.resource_id = p_resource AND d.holder_id = p_requester
    );
    SELECT coalesce(array_agg(q.requester_id::text), '{}'),
        coalesce(array_agg(q.lock_type::text), '{}')
        INTO ahead_requesters, ahead_modes
        FROM lock_wait_queue q WHERE q.resource_id = p_resource AND q.deadlock IS NULL
        AND (NOT is_upgrade OR EXISTS (
            SELECT FROM distributed_locks d
            WHERE d.resource_id = p_resource AND d.holder_id = q.requester_id
        ));
    id := p_wait;
    IF NOT unanimity_lock_is_blocked(
        p_resource, p_requester, p_mode, ahead_requesters, ahead_modes
    ) THEN
        kind := 'g';
        token := nextval('lock_fencing_token_seq');
        at := clock_timestamp();
        INSERT INTO distributed_locks VALUES (
            p_resource || ':' || p_mode || ':' || token, p_resource, p_mode, p_requester,
            p_coordination, at, coalesce(at + p_lease_us * interval '1 microsecond', 'infinity'),
            at, NULL, p_session, p_wait, token, coalesce(p_since, at), p_protected
        );
    ELSIF p_timeout_us = 0 THEN
        kind := 'b';
        told := unanimity_lock_blockers(p_resource, p_requester, p_mode);
    ELSE
        kind := 'w';
        at := clock_timestamp();
        INSERT INTO lock_wait_queue VALUES (
            p_wait, p_resource, p_mode, p_requester, p_coordination, at,
            coalesce(at + p_timeout_us * interval '1 microsecond', 'infinity'), DEFAULT, NULL,
            p_session, p_lease_us, coalesce(p_since, at), p_protected, NULL
        );
    END IF;
    RETURN NEXT;
END $$;

-- Releases, waits that are given up, and wishes, all in one round trip. Kinds beside those above:
-- r released, c given up (told: who is in the way), d a deadlock's victim (told: the circle),
-- n neither waits nor holds.
CREATE FUNCTION unanimity_lock_batch(
    p_session bigint,
    p_releases text[], p_release_resources text[], p_release_holders text[],
    p_cancels text[], p_cancel_resources text[],
    p_waits text[], p_resources text[], p_modes text[], p_requesters text[],
    p_coordinations text[], p_timeouts bigint[], p_leases bigint[], p_sinces timestamptz[],
    p_protected boolean[], p_fast boolean[], p_again boolean[]
) RETURNS TABLE (kind text, id text, token bigint, at timestamptz, told text)
LANGUAGE plpgsql AS $$
DECLARE
    r record;
    has_granted boolean := false;
    freed text[] := '{}';
    done text[] := '{}';
BEGIN
    IF cardinality(p_waits) > 0 THEN
        IF NOT EXISTS (SELECT FROM lock_sessions s WHERE s.session_id = p_session) THEN
            RAISE EXCEPTION 'the session % is over', p_session USING ERRCODE = 'UL001';
        END IF;
    END IF;
    PERFORM pg_advisory_xact_lock(key) FROM (
        SELECT DISTINCT hashtextextended(resource, 4077) AS key
        FROM unnest(p_release_resources || p_cancel_resources || p_resources) AS resource
        ORDER BY 1
    ) AS keys;
    IF cardinality(p_releases) > 0 THEN
        FOR r IN
            DELETE FROM distributed_locks d
            USING unnest(p_releases, p_release_holders) AS g(id, holder)
            -- The key finds it; who holds it is not to be looked up by its own index.
            WHERE d.lock_id = g.id AND d.holder_id || '' = g.holder
            RETURNING d.lock_id, d.resource_id, d.expires_at > clock_timestamp() AS was_held
        LOOP
            freed := freed || r.resource_id::text;
            IF r.was_held THEN
                kind := 'r';
                id := r.lock_id;
                RETURN NEXT;
            END IF;
        END LOOP;
    END IF;
    IF cardinality(p_cancels) > 0 THEN
        FOR r IN SELECT c.wait, c.resource, q.requester_id, q.lock_type, q.deadlock, d.fencing_token,
                d.acquired_at
            FROM unnest(p_cancels, p_cancel_resources) AS c(wait, resource)
            LEFT JOIN lock_wait_queue q ON q.wait_id = c.wait
            LEFT JOIN distributed_locks d ON d.resource_id = c.resource AND d.wait_id = c.wait
        LOOP
            id := r.wait;
            told := NULL;
            token := r.fencing_token;
            at := r.acquired_at;
            IF token IS NOT NULL THEN
                kind := 'g';
            ELSIF r.requester_id IS NULL THEN
                kind := 'n';
            ELSE
                DELETE FROM lock_wait_queue q WHERE q.wait_id = r.wait;
                freed := freed || r.resource;
                kind := CASE WHEN r.deadlock IS NULL THEN 'c' ELSE 'd' END;
                told := coalesce(
                    r.deadlock, unanimity_lock_blockers(r.resource, r.requester_id, r.lock_type)
                );
            END IF;
            RETURN NEXT;
        END LOOP;
    END IF;
    IF cardinality(freed) > 0 THEN
        FOR r IN SELECT DISTINCT f.resource FROM unnest(freed) AS f(resource)
            WHERE EXISTS (SELECT FROM lock_wait_queue q WHERE q.resource_id = f.resource)
        LOOP
            has_granted := true;
            RETURN QUERY SELECT 'g', g.wait, g.token, g.at, NULL
                FROM unanimity_lock_grant(r.resource, p_session) g;
        END LOOP;
    END IF;
    IF cardinality(p_waits) = 0 THEN
        -- What a crash of the server undoes of this, the session finds and does again.
        IF NOT has_granted THEN
            PERFORM set_config('synchronous_commit', 'off', true);
        END IF;
        RETURN;
    END IF;
    -- Most wishes are for what nobody holds or wants.
    FOR r IN
        INSERT INTO distributed_locks
        SELECT a.resource || ':' || a.mode || ':' || a.new_token, a.resource, a.mode, a.requester,
            a.coordination, a.now_at,
            coalesce(a.now_at + a.lease * interval '1 microsecond', 'infinity'), a.now_at, NULL,
            p_session, a.wait, a.new_token, coalesce(a.since, a.now_at), a.is_protected
        FROM (
            SELECT w.*, nextval('lock_fencing_token_seq') AS new_token, clock_timestamp() AS now_at
            FROM unnest(
                p_waits, p_resources, p_modes, p_requesters, p_coordinations, p_leases, p_sinces,
                p_protected, p_fast
            ) AS w(
                wait, resource, mode, requester, coordination, lease, since, is_protected, is_fast
            )
            WHERE w.is_fast
            AND NOT EXISTS (SELECT FROM distributed_locks d WHERE d.resource_id = w.resource)
            AND NOT EXISTS (SELECT FROM lock_wait_queue q WHERE q.resource_id = w.resource)
            OFFSET 0
        ) AS a
        RETURNING wait_id, fencing_token, acquired_at
    LOOP
        done := done || r.wait_id::text;
        kind := 'g';
        id := r.wait_id;
        token := r.fencing_token;
        at := r.acquired_at;
        told := NULL;
        RETURN NEXT;
    END LOOP;
    IF cardinality(done) < cardinality(p_waits) THEN
        FOR r IN SELECT * FROM unnest(
            p_waits, p_resources, p_modes, p_requesters, p_coordinations, p_timeouts, p_leases,
            p_sinces, p_protected, p_again
        ) WITH ORDINALITY AS w(
            wait, resource, mode, requester, coordination, timeout, lease, since, is_protected,
            is_again, ordinal
        ) WHERE w.wait <> ALL (done) ORDER BY w.ordinal
        LOOP
            RETURN QUERY SELECT * FROM unanimity_lock_ask_one(
                p_session, r.wait, r.resource, r.mode, r.requester, r.coordination, r.timeout,
                r.lease, r.since, r.is_protected, r.is_again
            );
        END LOOP;
    END IF;
END $$;

-- All locks of a requester.
CREATE FUNCTION unanimity_lock_release_all(p_session bigint, p_requester text)
RETURNS TABLE (kind text, id text, token bigint, at timestamptz, told text)
LANGUAGE plpgsql AS $$
DECLARE
    resources text[];
BEGIN
    SELECT coalesce(array_agg(DISTINCT d.resource_id::text), '{}') INTO resources
        FROM distributed_locks d WHERE d.holder_id = p_requester;
    PERFORM unanimity_lock_serialise(resources);
    RETURN QUERY DELETE FROM distributed_locks d
        WHERE d.holder_id = p_requester AND d.resource_id = ANY (resources)
        RETURNING 'r', d.lock_id::text, NULL::bigint, NULL::timestamptz, NULL;
    RETURN QUERY SELECT 'g', g.wait, g.token, g.at, NULL
        FROM unnest(resources) AS f(resource), unanimity_lock_grant(f.resource, p_session) g
        WHERE EXISTS (SELECT FROM lock_wait_queue q WHERE q.resource_id = f.resource);
END $$;

-- Removes from these resources what is over: by its lease, or with its session.
CREATE FUNCTION unanimity_lock_clear(p_session bigint, p_resources text[])
RETURNS TABLE (kind text, id text, token bigint, at timestamptz, told text)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM unanimity_lock_serialise(p_resources);
    DELETE FROM distributed_locks d WHERE d.resource_id = ANY (p_resources)
        AND (d.expires_at <= clock_timestamp() OR NOT EXISTS (
            SELECT FROM lock_sessions s WHERE s.session_id = d.session_id
        ));
    DELETE FROM lock_wait_queue q WHERE q.resource_id = ANY (p_resources) AND NOT EXISTS (
        SELECT FROM lock_sessions s WHERE s.session_id = q.session_id
    );
    RETURN QUERY SELECT 'g', g.wait, g.token, g.at, NULL
        FROM unnest(p_resources) AS f(resource), unanimity_lock_grant(f.resource, p_session) g
        WHERE EXISTS (SELECT FROM lock_wait_queue q WHERE q.resource_id = f.resource);
END $$;

-- Ends a session: its locks and waits go with it. Called again until kind m (more) is not told.
CREATE FUNCTION unanimity_lock_end(p_session bigint)
RETURNS TABLE (kind text, id text, token bigint, at timestamptz, told text)
LANGUAGE plpgsql AS $$
DECLARE
    resources text[];
BEGIN
    DELETE FROM lock_sessions s WHERE s.session_id = p_session;
    SELECT coalesce(array_agg(f.resource), '{}') INTO resources FROM (
        SELECT d.resource_id::text FROM distributed_locks d WHERE d.session_id = p_session
        UNION SELECT q.resource_id::text FROM lock_wait_queue q WHERE q.session_id = p_session
        LIMIT 256
    ) AS f(resource);
    RETURN QUERY SELECT * FROM unanimity_lock_clear(0, resources);
    IF cardinality(resources) = 256 THEN
        RETURN QUERY SELECT 'm', NULL, NULL::bigint, NULL::timestamptz, NULL;
    END IF;
END $$;

-- Removes what is over by its lease or with its session. p_gone are sessions whose process is seen
-- to have ended. With p_full it looks at every lock, also at those that a wish on its way left to a
-- session that is over. Kind m: there is more to remove.
CREATE FUNCTION unanimity_lock_sweep(p_session bigint, p_gone bigint[], p_full boolean)
RETURNS TABLE (kind text, id text, token bigint, at timestamptz, told text)
LANGUAGE plpgsql AS $$
DECLARE
    resources text[];
    is_full boolean := p_full;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('unanimity_lock_sweep', 0)) THEN
        RETURN;
    END IF;
    DELETE FROM lock_sessions s WHERE s.session_id <> p_session AND (
        s.heartbeat_at + s.timeout_us * interval '1 microsecond' < clock_timestamp()
        OR s.session_id = ANY (p_gone) AND pg_try_advisory_xact_lock(
            hashtextextended('unanimity_lock_session ' || s.session_id, 0)
        )
    );
    is_full := is_full OR FOUND;
    SELECT coalesce(array_agg(f.resource), '{}') INTO resources FROM (
        SELECT d.resource_id::text FROM distributed_locks d
        WHERE d.expires_at <> 'infinity' AND d.expires_at <= clock_timestamp()
        UNION SELECT d.resource_id::text FROM distributed_locks d
        WHERE is_full AND NOT EXISTS (
            SELECT FROM lock_sessions s WHERE s.session_id = d.session_id
        )
        UNION SELECT q.resource_id::text FROM lock_wait_queue q
        WHERE is_full AND NOT EXISTS (
            SELECT FROM lock_sessions s WHERE s.session_id = q.session_id
        )
        LIMIT 256
    ) AS f(resource);
    IF cardinality(resources) > 0 THEN
        RETURN QUERY SELECT * FROM unanimity_lock_clear(p_session, resources);
    END IF;
    IF cardinality(resources) = 256 THEN
        RETURN QUERY SELECT 'm', NULL, NULL::bigint, NULL::timestamptz, NULL;
    END IF;
END $$;

-- Refuses a deadlock's victim: its waits for this resource get the mark. Kind d: refused.
CREATE FUNCTION unanimity_lock_refuse(
    p_session bigint, p_requester text, p_resource text, p_mark text
) RETURNS TABLE (kind text, id text, token bigint, at timestamptz, told text)
LANGUAGE plpgsql AS $$
DECLARE
    r record;
BEGIN
    PERFORM unanimity_lock_serialise(ARRAY[p_resource]);
    FOR r IN
        UPDATE lock_wait_queue q SET deadlock = p_mark
        WHERE q.resource_id = p_resource AND q.requester_id = p_requester AND q.deadlock IS NULL
        RETURNING q.wait_id, q.session_id
    LOOP
        PERFORM pg_notify('unanimity_lock_' || r.session_id, 'deadlock ' || r.wait_id);
        kind := 'd';
        id := r.wait_id;
        RETURN NEXT;
    END LOOP;
    RETURN QUERY SELECT 'g', g.wait, g.token, g.at, NULL
        FROM unanimity_lock_grant(p_resource, p_session) g;
END $$;
