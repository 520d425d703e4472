-- Times are ISO 8601 UTC text with milliseconds and a trailing Z, so that text order is time order.

CREATE TABLE debates (
  id            TEXT PRIMARY KEY,
  query         TEXT NOT NULL,
  status        TEXT NOT NULL CHECK (status IN ('running', 'completed', 'failed', 'cancelled', 'interrupted')),
  config        TEXT NOT NULL,                 -- DebateConfig, JSON
  created_at    TEXT NOT NULL,
  ended_at      TEXT,
  trace_id      TEXT,
  adapter_id    TEXT,
  error_message TEXT,
  source        TEXT NOT NULL,
  owner_pid     INTEGER                        -- the process that runs it: another one must not call it interrupted
) STRICT;
CREATE INDEX debates_by_status ON debates (status);

CREATE TABLE traces (
  seq              INTEGER PRIMARY KEY,        -- rowid, for FTS
  id               TEXT NOT NULL UNIQUE,
  created_at       TEXT NOT NULL,
  query            TEXT NOT NULL,
  final_answer     TEXT NOT NULL,
  domain           TEXT,
  early_stopped    INTEGER NOT NULL DEFAULT 0,
  stop_reason      TEXT NOT NULL DEFAULT '',
  auto_score       REAL CHECK (auto_score BETWEEN 0 AND 10),
  judge            TEXT,
  user_rating      INTEGER CHECK (user_rating BETWEEN 1 AND 10),
  corrected_answer TEXT,
  withdrawn_at     TEXT,
  withdrawn_reason TEXT,
  adapter_id       TEXT,
  source           TEXT NOT NULL,
  details          TEXT NOT NULL               -- models, templates, timings, tokens, score reasons: JSON
) STRICT;
-- The order of every page and all that pages are filtered by: counting and choosing never read the long texts.
CREATE INDEX traces_newest ON traces (created_at DESC, seq DESC, source, withdrawn_at, user_rating, auto_score);
CREATE INDEX traces_by_quality ON traces (coalesce(user_rating, auto_score));
CREATE INDEX traces_by_domain ON traces (domain);

CREATE TABLE rounds (
  trace_id      TEXT NOT NULL REFERENCES traces (id) ON DELETE CASCADE,
  number        INTEGER NOT NULL,
  proposal      TEXT NOT NULL,
  critique      TEXT,                          -- Critique, JSON
  critique_text TEXT NOT NULL DEFAULT '',
  proposer_ms   REAL NOT NULL DEFAULT 0,
  skeptic_ms    REAL NOT NULL DEFAULT 0,
  PRIMARY KEY (trace_id, number)
) STRICT, WITHOUT ROWID;

CREATE VIRTUAL TABLE traces_fts USING fts5 (query, final_answer, content='traces', content_rowid='seq', tokenize='porter unicode61');
CREATE TRIGGER traces_fts_insert AFTER INSERT ON traces BEGIN
  INSERT INTO traces_fts (rowid, query, final_answer) VALUES (new.seq, new.query, new.final_answer);
END;
CREATE TRIGGER traces_fts_delete AFTER DELETE ON traces BEGIN
  INSERT INTO traces_fts (traces_fts, rowid, query, final_answer) VALUES ('delete', old.seq, old.query, old.final_answer);
END;

CREATE TABLE templates (
  seq         INTEGER PRIMARY KEY,
  id          TEXT NOT NULL UNIQUE,
  name        TEXT NOT NULL,
  description TEXT NOT NULL,
  domain      TEXT NOT NULL,
  methodology TEXT NOT NULL,
  keywords    TEXT NOT NULL,                   -- space-separated, as FTS reads them
  body        TEXT NOT NULL,
  source      TEXT NOT NULL CHECK (source IN ('starter', 'local', 'community')),
  sha256      TEXT NOT NULL,                   -- of the file as it came
  created_at  TEXT NOT NULL,
  updated_at  TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX starter_names ON templates (name) WHERE source = 'starter';

CREATE VIRTUAL TABLE templates_fts USING fts5 (
  name, description, domain, methodology, keywords, body,
  content='templates', content_rowid='seq', tokenize='porter unicode61'
);
CREATE TRIGGER templates_fts_insert AFTER INSERT ON templates BEGIN
  INSERT INTO templates_fts (rowid, name, description, domain, methodology, keywords, body)
  VALUES (new.seq, new.name, new.description, new.domain, new.methodology, new.keywords, new.body);
END;
CREATE TRIGGER templates_fts_delete AFTER DELETE ON templates BEGIN
  INSERT INTO templates_fts (templates_fts, rowid, name, description, domain, methodology, keywords, body)
  VALUES ('delete', old.seq, old.name, old.description, old.domain, old.methodology, old.keywords, old.body);
END;
CREATE TRIGGER templates_fts_update AFTER UPDATE ON templates BEGIN
  INSERT INTO templates_fts (templates_fts, rowid, name, description, domain, methodology, keywords, body)
  VALUES ('delete', old.seq, old.name, old.description, old.domain, old.methodology, old.keywords, old.body);
  INSERT INTO templates_fts (rowid, name, description, domain, methodology, keywords, body)
  VALUES (new.seq, new.name, new.description, new.domain, new.methodology, new.keywords, new.body);
END;

CREATE TABLE finetune_runs (
  id             TEXT PRIMARY KEY,
  started_at     TEXT NOT NULL,
  completed_at   TEXT,
  status         TEXT NOT NULL CHECK (status IN ('pending', 'running', 'completed', 'failed', 'cancelled')),
  traces_used    INTEGER NOT NULL DEFAULT 0,
  train_examples INTEGER NOT NULL DEFAULT 0,
  val_examples   INTEGER NOT NULL DEFAULT 0,
  base_model     TEXT NOT NULL DEFAULT '',
  config         TEXT NOT NULL,
  metrics        TEXT,
  lora_path      TEXT,
  error_message  TEXT,
  triggered_by   TEXT NOT NULL,
  dataset_hash   TEXT
) STRICT;
CREATE INDEX finetune_runs_newest ON finetune_runs (started_at DESC);
CREATE UNIQUE INDEX one_run_at_a_time ON finetune_runs ((1)) WHERE status IN ('pending', 'running');

CREATE TABLE run_traces (
  run_id   TEXT NOT NULL REFERENCES finetune_runs (id) ON DELETE CASCADE,
  trace_id TEXT NOT NULL,
  split    TEXT NOT NULL CHECK (split IN ('train', 'val')),
  PRIMARY KEY (run_id, trace_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX run_traces_by_trace ON run_traces (trace_id);

CREATE TABLE lora_events (
  id                  INTEGER PRIMARY KEY AUTOINCREMENT,
  timestamp           TEXT NOT NULL,
  adapter_id          TEXT,                    -- NULL: the base model
  previous_adapter_id TEXT,
  triggered_by        TEXT NOT NULL,
  success             INTEGER,                 -- NULL: an intent not yet settled
  error_message       TEXT
) STRICT;
