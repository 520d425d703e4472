-- Training that is left alone: what was tried, what waits for a worker, what the schedule decided, what a person should know.

ALTER TABLE finetune_runs ADD COLUMN attempts TEXT NOT NULL DEFAULT '[]';   -- RunAttempt, JSON list
ALTER TABLE finetune_runs ADD COLUMN queued INTEGER NOT NULL DEFAULT 0 CHECK (queued IN (0, 1));
-- 1: pending until a `tmde worker` takes it

CREATE TABLE schedule_decisions (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  schedule   TEXT NOT NULL CHECK (schedule IN ('finetune', 'benchmark')),
  due_at     TEXT NOT NULL,
  decided_at TEXT NOT NULL,
  action     TEXT NOT NULL CHECK (action IN ('started', 'skipped', 'failed')),
  reason     TEXT NOT NULL,
  run_id     TEXT,
  UNIQUE (schedule, due_at)                    -- no instant is decided twice, whoever asks
) STRICT;

CREATE TABLE notifications (
  seq          INTEGER PRIMARY KEY AUTOINCREMENT,  -- the id of the event stream
  id           TEXT NOT NULL UNIQUE,
  created_at   TEXT NOT NULL,
  kind         TEXT NOT NULL,                  -- finetune.completed, benchmark.worse, …
  level        TEXT NOT NULL CHECK (level IN ('info', 'success', 'warning', 'error')),
  title        TEXT NOT NULL,
  detail       TEXT NOT NULL DEFAULT '',
  href         TEXT,                           -- the page that shows it
  dismissed_at TEXT
) STRICT;
CREATE INDEX notifications_open ON notifications (seq) WHERE dismissed_at IS NULL;
