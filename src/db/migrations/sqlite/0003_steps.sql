-- The journal, version 3. Coordinations by steps (sagas, eventual consistency): what each operation
-- did stands beside what each store did. A version that does not know their records must not read
-- them, so it must not open this file.

ALTER TABLE coordination_transactions ADD COLUMN steps_summary TEXT NOT NULL DEFAULT '[]';
