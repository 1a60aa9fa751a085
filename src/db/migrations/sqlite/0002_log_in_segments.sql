-- The journal, version 2. The log is kept in segments beside this file; the rows of journal_log are
-- those records of open coordinations whose segments may go. A version that knows only rows would
-- write into the wrong place, so it must not open this file.

INSERT INTO journal_meta (key, value) VALUES ('segments', '0');
