-- The journal, version 5. What people ask for stays quick with millions of finished coordinations:
-- those of one state come in the order of time, and the few that are open have an index of their own.

DROP INDEX idx_coordination_transactions_state;
CREATE INDEX idx_coordination_transactions_state ON coordination_transactions(state, created_at);
CREATE INDEX idx_coordination_transactions_open ON coordination_transactions(created_at)
    WHERE completed_at IS NULL;
