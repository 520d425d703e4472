-- Benchmarks: runs, answers, one's own questions, what the judge once said of the frozen answers, what the gate decided.

CREATE TABLE benchmark_runs (
  id              TEXT PRIMARY KEY,
  type            TEXT NOT NULL CHECK (type IN ('quick', 'full', 'custom')),
  mode            TEXT NOT NULL CHECK (mode IN ('debate', 'proposer')),
  suite           TEXT NOT NULL,
  status          TEXT NOT NULL CHECK (status IN ('pending', 'running', 'completed', 'failed', 'cancelled', 'interrupted')),
  started_at      TEXT NOT NULL,
  completed_at    TEXT,
  adapter_id      TEXT,                        -- NULL: the base model
  suite_sha256    TEXT NOT NULL,
  comparable      TEXT NOT NULL,               -- hash of what two runs must share to be compared: questions, mode, judge, repeats, models
  tmde_score      REAL,                        -- these four again, so that the series reads no JSON
  quality         REAL,
  quality_low     REAL,
  quality_high    REAL,
  record          TEXT NOT NULL,               -- BenchmarkRun, JSON
  questions       TEXT NOT NULL                -- the questions as they were asked, JSON list
) STRICT;
CREATE INDEX benchmark_runs_newest ON benchmark_runs (started_at DESC, status, adapter_id, type, mode);
CREATE INDEX benchmark_runs_comparable ON benchmark_runs (comparable, status, started_at DESC);
CREATE UNIQUE INDEX one_benchmark_at_a_time ON benchmark_runs ((1)) WHERE status IN ('pending', 'running');

CREATE TABLE benchmark_results (
  run_id      TEXT NOT NULL REFERENCES benchmark_runs (id) ON DELETE CASCADE,
  question_id TEXT NOT NULL,
  repeat      INTEGER NOT NULL,
  record      TEXT NOT NULL,                   -- BenchmarkResult, JSON
  trace       TEXT,                            -- the debate, JSON: kept here, apart from what is trained on
  PRIMARY KEY (run_id, question_id, repeat)
) STRICT, WITHOUT ROWID;

CREATE TABLE benchmark_comparisons (
  a      TEXT NOT NULL REFERENCES benchmark_runs (id) ON DELETE CASCADE,
  b      TEXT NOT NULL REFERENCES benchmark_runs (id) ON DELETE CASCADE,
  record TEXT NOT NULL,                        -- RunComparison without runs and questions, JSON: never changes, costs half a second
  PRIMARY KEY (a, b)
) STRICT, WITHOUT ROWID;

CREATE TABLE benchmark_questions (
  id         TEXT PRIMARY KEY,
  created_at TEXT NOT NULL,
  question   TEXT NOT NULL                     -- Question, JSON
) STRICT;

CREATE TABLE judge_anchors (
  judge  TEXT NOT NULL,                        -- judge and its model
  anchor TEXT NOT NULL,
  score  REAL NOT NULL,                        -- when it was first asked
  PRIMARY KEY (judge, anchor)
) STRICT, WITHOUT ROWID;

CREATE TABLE gate_decisions (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  adapter_id TEXT NOT NULL,
  at         TEXT NOT NULL,
  record     TEXT NOT NULL                     -- GateDecision, JSON
) STRICT;
CREATE INDEX gate_decisions_by_adapter ON gate_decisions (adapter_id, id DESC);
