-- The durable bus, version 1. A line is what one group has not handled yet of one stream: it stands
-- here exactly while there is such an event, and belongs to at most one session (owner), whose
-- process alone hands its events over. Its next event is the first that was redriven, else the first
-- behind 'handled' that the group wishes for. 'head' and 'kind' tell that event's place and type,
-- 'deaths' how many owners ended while it was out.
--
-- Order of locks: the row of bus_meta, then lines in the order of group and stream. Publications go
-- one after the other, each in one statement, so that positions become visible in their order, and
-- each locks the lines of its streams, so that none is removed while it gets another event.

-- Positions are given in the transaction that publishes, and never again.
CREATE TABLE bus_meta (
    last_position BIGINT NOT NULL
) WITH (fillfactor = 10, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);
INSERT INTO bus_meta VALUES (0);

-- A process. Its beat grows while it lives.
CREATE TABLE bus_sessions (
    session_id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    beat BIGINT NOT NULL DEFAULT 0,
    started_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT clock_timestamp()
);

-- "C" compares bytes, which is all that is needed.
CREATE TABLE bus_events (
    position BIGINT PRIMARY KEY,
    event_id TEXT COLLATE "C" NOT NULL UNIQUE,
    stream TEXT COLLATE "C" NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    body TEXT NOT NULL,
    published_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT clock_timestamp()
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX idx_bus_events_stream ON bus_events(stream, position);

-- A group with an owner is one subscription's own, and goes with that session.
CREATE TABLE bus_groups (
    group_id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL UNIQUE,
    owner BIGINT
);

-- What a group is told of, and from which position on; the empty kind is every kind.
CREATE TABLE bus_wishes (
    group_id BIGINT NOT NULL REFERENCES bus_groups(group_id) ON DELETE CASCADE,
    kind TEXT COLLATE "C" NOT NULL,
    since BIGINT NOT NULL,
    PRIMARY KEY (group_id, kind)
);
CREATE INDEX idx_bus_wishes_kind ON bus_wishes(kind);

-- Lines come and go at the rate of events. Without a reference to groups, whose check would lock a
-- row of them for each line; who removes a group removes its lines.
CREATE TABLE bus_lines (
    group_id BIGINT NOT NULL,
    stream TEXT COLLATE "C" NOT NULL,
    handled BIGINT NOT NULL,
    head BIGINT NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    owner BIGINT,
    deaths INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (group_id, stream)
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX idx_bus_lines_free ON bus_lines(group_id, head) WHERE owner IS NULL;
CREATE INDEX idx_bus_lines_owner ON bus_lines(owner) WHERE owner IS NOT NULL;

-- Parked events are whole here, so that retention need not ask for them.
CREATE TABLE bus_parked (
    group_id BIGINT NOT NULL REFERENCES bus_groups(group_id) ON DELETE CASCADE,
    event_id TEXT COLLATE "C" NOT NULL,
    position BIGINT NOT NULL,
    stream TEXT COLLATE "C" NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    body TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    message TEXT NOT NULL,
    parked_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT clock_timestamp(),
    is_redriven BOOLEAN NOT NULL DEFAULT false,
    PRIMARY KEY (group_id, event_id)
);
CREATE INDEX idx_bus_parked_at ON bus_parked(parked_at);
CREATE INDEX idx_bus_parked_redriven ON bus_parked(group_id, stream, position) WHERE is_redriven;

-- Publishes in the order of the arrays; an id that is there already counts as published.
CREATE FUNCTION unanimity_bus_publish(
    p_ids text[], p_streams text[], p_kinds text[], p_bodies text[]
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_last bigint;
    v_added bigint;
    v_made bigint;
BEGIN
    SELECT last_position INTO v_last FROM bus_meta FOR UPDATE;
    INSERT INTO bus_events (position, event_id, stream, kind, body)
        SELECT v_last + row_number() OVER (ORDER BY u.n), u.id, u.stream, u.kind, u.body
        FROM (
            SELECT DISTINCT ON (a.id) a.* FROM unnest(p_ids, p_streams, p_kinds, p_bodies)
                WITH ORDINALITY AS a(id, stream, kind, body, n) ORDER BY a.id, a.n
        ) AS u
        WHERE NOT EXISTS (SELECT FROM bus_events e WHERE e.event_id = u.id);
    GET DIAGNOSTICS v_added = ROW_COUNT;
    IF v_added = 0 THEN
        RETURN;
    END IF;
    UPDATE bus_meta SET last_position = v_last + v_added;
    -- The update that changes nothing locks the lines that are there.
    INSERT INTO bus_lines AS l (group_id, stream, handled, head, kind)
        SELECT DISTINCT ON (w.group_id, e.stream)
            w.group_id, e.stream, e.position - 1, e.position, e.kind
        FROM bus_events e JOIN bus_wishes w ON w.kind IN (e.kind, '')
        WHERE e.position > v_last ORDER BY w.group_id, e.stream, e.position
        ON CONFLICT (group_id, stream) DO UPDATE SET head = l.head WHERE false;
    GET DIAGNOSTICS v_made = ROW_COUNT;
    IF v_made > 0 THEN
        PERFORM pg_notify('unanimity_bus', '');
    END IF;
END $$;

-- Makes a group where it is missing, adds what it wishes for; its number.
CREATE FUNCTION unanimity_bus_join(p_name text, p_owner bigint, p_kind text) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_last bigint;
    v_group bigint;
BEGIN
    -- Behind this, publications see the wish.
    SELECT last_position INTO v_last FROM bus_meta FOR UPDATE;
    INSERT INTO bus_groups (name, owner) VALUES (p_name, p_owner) ON CONFLICT DO NOTHING;
    SELECT group_id INTO v_group FROM bus_groups WHERE name = p_name;
    INSERT INTO bus_wishes VALUES (v_group, coalesce(p_kind, ''), v_last) ON CONFLICT DO NOTHING;
    RETURN v_group;
END $$;

-- Removes a group with all that it has.
CREATE FUNCTION unanimity_bus_drop(p_group bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM bus_meta FOR UPDATE;
    DELETE FROM bus_lines WHERE group_id = p_group;
    DELETE FROM bus_groups WHERE group_id = p_group;
END $$;

-- Frees lines of a session, or removes those of which nothing is left to handle. The caller has
-- locked them in an earlier statement: this one has to see what was published before that.
CREATE FUNCTION unanimity_bus_give_back(p_session bigint, p_groups bigint[], p_streams text[])
RETURNS void
LANGUAGE sql AS $$
    WITH ended AS (
        SELECT l.group_id, l.stream, l.handled
        FROM unnest(p_groups, p_streams) AS r(group_id, stream)
        JOIN bus_lines l ON l.group_id = r.group_id AND l.stream = r.stream
        WHERE l.owner = p_session
    ), next AS (
        SELECT d.group_id, d.stream, n.position, n.kind FROM ended d LEFT JOIN LATERAL (
            SELECT * FROM (
                (SELECT p.position, p.kind, 0 AS place FROM bus_parked p
                 WHERE p.group_id = d.group_id AND p.stream = d.stream AND p.is_redriven
                 ORDER BY p.position LIMIT 1)
                UNION ALL
                (SELECT e.position, e.kind, 1 FROM bus_events e
                 WHERE e.stream = d.stream AND e.position > d.handled AND EXISTS (
                     SELECT FROM bus_wishes w WHERE w.group_id = d.group_id
                     AND w.kind IN (e.kind, '') AND w.since < e.position
                 ) ORDER BY e.position LIMIT 1)
            ) AS both_kinds ORDER BY place LIMIT 1
        ) AS n ON true
    ), gone AS (
        DELETE FROM bus_lines l USING next n
        WHERE l.group_id = n.group_id AND l.stream = n.stream AND n.position IS NULL
    )
    UPDATE bus_lines l SET head = n.position, kind = n.kind, owner = NULL FROM next n
    WHERE l.group_id = n.group_id AND l.stream = n.stream AND n.position IS NOT NULL
$$;

-- Writes what became of the events of a session's lines, then claims for its members. Reports about
-- lines that it does not own any more change nothing. A line of which nothing can be handed over
-- comes without a position, to be given back.
CREATE FUNCTION unanimity_bus_turn(
    p_session bigint,
    p_groups bigint[], p_streams text[], p_handled bigint[], p_last boolean[],
    p_redriven_groups bigint[], p_redriven_ids text[],
    p_park_groups bigint[], p_park_ids text[], p_park_attempts integer[], p_park_messages text[],
    p_claim_groups bigint[], p_claim_kinds text[], p_claim_lines integer[],
    p_claim_portions integer[]
) RETURNS TABLE (
    place integer, line text, event_position bigint, event_id text, event_kind text,
    event_body text, is_redriven boolean, deaths integer
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    IF cardinality(p_park_ids) + cardinality(p_redriven_ids) = 0 THEN
        -- A report or claim that a crash of the server undoes is made again.
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    IF cardinality(p_groups) > 0 THEN
        PERFORM FROM bus_lines l JOIN unnest(p_groups, p_streams) AS r(group_id, stream)
            ON l.group_id = r.group_id AND l.stream = r.stream
            WHERE l.owner = p_session ORDER BY l.group_id, l.stream FOR UPDATE OF l;
        UPDATE bus_lines l SET handled = r.handled, deaths = 0
            FROM unnest(p_groups, p_streams, p_handled) AS r(group_id, stream, handled)
            WHERE l.group_id = r.group_id AND l.stream = r.stream AND l.owner = p_session
            AND r.handled > l.handled;
        IF cardinality(p_redriven_ids) > 0 THEN
            DELETE FROM bus_parked p
                USING unnest(p_redriven_groups, p_redriven_ids) AS d(group_id, id), bus_lines l
                WHERE p.group_id = d.group_id AND p.event_id = d.id AND l.group_id = p.group_id
                AND l.stream = p.stream AND l.owner = p_session;
            UPDATE bus_lines l SET deaths = 0
                FROM unnest(p_groups, p_streams) AS r(group_id, stream)
                WHERE l.group_id = r.group_id AND l.stream = r.stream AND l.owner = p_session;
        END IF;
        IF cardinality(p_park_ids) > 0 THEN
            INSERT INTO bus_parked AS p (group_id, event_id, position, stream, kind, body, attempts,
                    message)
                SELECT a.group_id, a.id, f.position, f.stream, f.kind, f.body, a.attempts, a.message
                FROM unnest(p_park_groups, p_park_ids, p_park_attempts, p_park_messages)
                    AS a(group_id, id, attempts, message)
                CROSS JOIN LATERAL (
                    SELECT o.position, o.stream, o.kind, o.body FROM bus_parked o
                        WHERE o.group_id = a.group_id AND o.event_id = a.id
                    UNION ALL
                    SELECT e.position, e.stream, e.kind, e.body FROM bus_events e
                        WHERE e.event_id = a.id
                    LIMIT 1
                ) AS f
                JOIN bus_lines l ON l.group_id = a.group_id AND l.stream = f.stream
                WHERE l.owner = p_session
                ON CONFLICT (group_id, event_id) DO UPDATE SET attempts = excluded.attempts,
                    message = excluded.message, parked_at = clock_timestamp(), is_redriven = false;
            UPDATE bus_lines l SET deaths = 0
                FROM unnest(p_groups, p_streams) AS r(group_id, stream)
                WHERE l.group_id = r.group_id AND l.stream = r.stream AND l.owner = p_session;
        END IF;
        PERFORM unanimity_bus_give_back(p_session, array_agg(r.group_id), array_agg(r.stream))
            FROM unnest(p_groups, p_streams, p_last) AS r(group_id, stream, is_last)
            WHERE r.is_last;
    END IF;
    FOR i IN 1 .. cardinality(p_claim_groups) LOOP
        RETURN QUERY
            WITH free AS (
                SELECT f.group_id, f.stream FROM bus_lines f
                WHERE f.group_id = p_claim_groups[i] AND f.owner IS NULL
                AND (p_claim_kinds[i] IS NULL OR f.kind = p_claim_kinds[i])
                ORDER BY f.head LIMIT p_claim_lines[i] FOR UPDATE SKIP LOCKED
            ), mine AS (
                UPDATE bus_lines l SET owner = p_session FROM free f
                WHERE l.group_id = f.group_id AND l.stream = f.stream
                RETURNING l.group_id, l.stream, l.handled, l.head, l.deaths
            )
            SELECT i, m.stream, n.position, n.event_id, n.kind, n.body, n.place = 0,
                m.deaths
            FROM mine m LEFT JOIN LATERAL (
                SELECT * FROM (
                    (SELECT p.position, p.event_id, p.kind, p.body, 0 AS place FROM bus_parked p
                     WHERE p.group_id = m.group_id AND p.stream = m.stream AND p.is_redriven
                     ORDER BY p.position LIMIT p_claim_portions[i])
                    UNION ALL
                    (SELECT e.position, e.event_id, e.kind, e.body, 1 FROM bus_events e
                     WHERE e.stream = m.stream AND e.position > m.handled AND EXISTS (
                         SELECT FROM bus_wishes w WHERE w.group_id = m.group_id
                         AND w.kind IN (e.kind, '') AND w.since < e.position
                     ) ORDER BY e.position LIMIT p_claim_portions[i])
                ) AS both_kinds ORDER BY place, position LIMIT p_claim_portions[i]
            ) AS n ON true
            ORDER BY m.head, m.stream, n.place, n.position;
    END LOOP;
    -- What was given back and is not for the members of this session is for others'.
    IF EXISTS (
        SELECT FROM unnest(p_groups, p_streams, p_last) AS r(group_id, stream, is_last)
        JOIN bus_lines l ON l.group_id = r.group_id AND l.stream = r.stream
        WHERE r.is_last AND l.owner IS NULL
    ) THEN
        PERFORM pg_notify('unanimity_bus', '');
    END IF;
END $$;

-- After a connection broke: takes the lines that the process holds and that are still its own or
-- nobody's, gives back those that it does not know of; those that it holds now.
CREATE FUNCTION unanimity_bus_reconcile(p_session bigint, p_groups bigint[], p_streams text[])
RETURNS TABLE (line_group bigint, line text)
LANGUAGE plpgsql AS $$
DECLARE
    v_groups bigint[];
    v_streams text[];
BEGIN
    PERFORM FROM bus_lines l WHERE l.owner = p_session ORDER BY l.group_id, l.stream FOR UPDATE;
    SELECT array_agg(l.group_id), array_agg(l.stream) INTO v_groups, v_streams FROM bus_lines l
        WHERE l.owner = p_session AND NOT EXISTS (
            SELECT FROM unnest(p_groups, p_streams) AS h(group_id, stream)
            WHERE h.group_id = l.group_id AND h.stream = l.stream
        );
    PERFORM unanimity_bus_give_back(p_session, v_groups, v_streams);
    IF v_groups IS NOT NULL THEN
        PERFORM pg_notify('unanimity_bus', '');
    END IF;
    RETURN QUERY
        WITH free AS (
            SELECT l.group_id, l.stream FROM bus_lines l
            JOIN unnest(p_groups, p_streams) AS h(group_id, stream)
            ON h.group_id = l.group_id AND h.stream = l.stream
            WHERE l.owner IS NULL OR l.owner = p_session
            ORDER BY l.group_id, l.stream FOR UPDATE OF l
        )
        UPDATE bus_lines l SET owner = p_session FROM free f
        WHERE l.group_id = f.group_id AND l.stream = f.stream
        RETURNING l.group_id, l.stream;
END $$;

-- Ends a session: its lines are free, its own groups gone. Of one that did not end by itself what
-- was out counts as a lost answer.
CREATE FUNCTION unanimity_bus_end(p_session bigint, p_is_dead boolean) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM bus_meta FOR UPDATE;
    DELETE FROM bus_sessions WHERE session_id = p_session;
    PERFORM FROM bus_lines l WHERE l.owner = p_session ORDER BY l.group_id, l.stream FOR UPDATE;
    DELETE FROM bus_lines l USING bus_groups g
        WHERE g.owner = p_session AND l.group_id = g.group_id;
    DELETE FROM bus_groups WHERE owner = p_session;
    IF p_is_dead THEN
        UPDATE bus_lines SET deaths = deaths + 1 WHERE owner = p_session;
    END IF;
    PERFORM unanimity_bus_give_back(p_session, array_agg(l.group_id), array_agg(l.stream))
        FROM bus_lines l WHERE l.owner = p_session;
    PERFORM pg_notify('unanimity_bus', '');
END $$;

-- Puts a parked event at the front of its stream's line. False where there is none.
CREATE FUNCTION unanimity_bus_redrive(p_id text, p_name text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    v_last bigint;
    v_parked bus_parked;
BEGIN
    SELECT last_position INTO v_last FROM bus_meta FOR UPDATE;
    UPDATE bus_parked p SET is_redriven = true FROM bus_groups g
        WHERE g.name = p_name AND p.group_id = g.group_id AND p.event_id = p_id
        AND NOT p.is_redriven RETURNING p.* INTO v_parked;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- A line that somebody holds finds it when that one gives it back.
    INSERT INTO bus_lines AS l (group_id, stream, handled, head, kind)
        VALUES (v_parked.group_id, v_parked.stream, v_last, v_parked.position, v_parked.kind)
        ON CONFLICT (group_id, stream) DO UPDATE SET head = excluded.head, kind = excluded.kind
        WHERE l.owner IS NULL;
    PERFORM pg_notify('unanimity_bus', '');
    RETURN true;
END $$;

-- Looks at a portion of the events behind a position and removes those that are old and handled by
-- every group. Where to look next; 0 begins anew, null: somebody else is at it.
CREATE FUNCTION unanimity_bus_retain(
    p_after bigint, p_kept_us bigint, p_kept_max bigint, p_portion integer
) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_oldest bigint;
    v_until bigint;
    v_seen bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('unanimity_bus_retain', 0)) THEN
        RETURN NULL;
    END IF;
    PERFORM set_config('synchronous_commit', 'off', true);
    SELECT last_position - p_kept_max INTO v_oldest FROM bus_meta;
    -- Times grow with positions, so the first that is too young ends the portion.
    SELECT max(position), count(*) INTO v_until, v_seen FROM (
        SELECT e.position, e.published_at FROM bus_events e WHERE e.position > p_after
        ORDER BY e.position LIMIT p_portion
    ) AS portion WHERE position <= v_oldest
        OR published_at < clock_timestamp() - p_kept_us * interval '1 microsecond';
    IF v_until IS NULL THEN
        RETURN 0;
    END IF;
    DELETE FROM bus_events e WHERE e.position > p_after AND e.position <= v_until AND NOT EXISTS (
        SELECT FROM bus_groups g JOIN bus_lines l ON l.group_id = g.group_id
        WHERE l.stream = e.stream AND l.handled < e.position
    );
    RETURN CASE WHEN v_seen < p_portion THEN 0 ELSE v_until END;
END $$;
