-- Names of runs, and the names of fields as the requirements have them. Runs that earlier versions stored are rewritten.

ALTER TABLE finetune_runs ADD COLUMN name TEXT NOT NULL DEFAULT '';   -- what people call the run; '': not known

UPDATE finetune_runs SET triggered_by =
  CASE triggered_by WHEN 'schedule' THEN 'scheduled' WHEN 'api' THEN 'api' ELSE 'manual' END;

UPDATE benchmark_runs SET record = json_remove(
  json_set(
    record,
    '$.questionCount', json_array_length(questions),
    '$.completedQuestions', (
      SELECT count(*) FROM (
        SELECT 1 FROM benchmark_results AS given WHERE given.run_id = benchmark_runs.id
        GROUP BY given.question_id HAVING count(*) >= (benchmark_runs.record ->> '$.repeats')
      )
    ),
    '$.answerCount', record -> '$.questionsTotal',
    '$.completedAnswers', record -> '$.questionsDone',
    '$.triggeredBy', CASE record ->> '$.triggeredBy' WHEN 'gate' THEN 'post-finetune' WHEN 'schedule' THEN 'scheduled' ELSE 'manual' END
  ),
  '$.questionsTotal', '$.questionsDone'
);

UPDATE benchmark_runs SET record = json_set(
  record,
  '$.metrics',
  json_remove(
    json_set(
      record -> '$.metrics',
      '$.avgQualityScore', record -> '$.metrics.avgQuality.mean',
      '$.avgResponseTimeMs', record -> '$.metrics.avgResponseTimeMs.mean',
      '$.avgTokensPerSecond', record -> '$.metrics.tokensPerSecond.mean',
      '$.avgDebateRounds', record -> '$.metrics.avgRounds.mean',
      '$.earlyTerminationRate', record -> '$.metrics.earlyTerminationRate.mean',
      '$.domainScores', json((
        SELECT json_group_object(one.value ->> '$.domain', one.value -> '$.quality.mean')
        FROM json_each(benchmark_runs.record, '$.metrics.domains') AS one
        WHERE one.value ->> '$.quality.mean' IS NOT NULL
      )),
      '$.intervals', json_object(
        'quality', record -> '$.metrics.avgQuality',
        'responseTimeMs', record -> '$.metrics.avgResponseTimeMs',
        'tokensPerSecond', record -> '$.metrics.tokensPerSecond',
        'debateRounds', record -> '$.metrics.avgRounds',
        'earlyTerminationRate', record -> '$.metrics.earlyTerminationRate'
      ),
      '$.vsBaseline', (
        SELECT round(100.0 * (benchmark_runs.tmde_score - other.tmde_score) / other.tmde_score, 2)
        FROM benchmark_runs AS other WHERE other.id = benchmark_runs.record ->> '$.baselineRunId' AND other.tmde_score > 0
      ),
      '$.vsPrevious', (
        SELECT round(100.0 * (benchmark_runs.tmde_score - other.tmde_score) / other.tmde_score, 2)
        FROM benchmark_runs AS other WHERE other.id = benchmark_runs.record ->> '$.previousRunId' AND other.tmde_score > 0
      )
    ),
    '$.avgQuality', '$.tokensPerSecond', '$.avgRounds'
  )
) WHERE json_type(record, '$.metrics') = 'object';

-- A debate's answer has the id of its trace. The others get a random UUID.
UPDATE benchmark_results SET record = json_remove(
  json_set(
    record,
    '$.id', coalesce(
      trace ->> '$.id',
      lower(
        hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-8'
        || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))
      )
    ),
    '$.traceId', trace ->> '$.id',
    '$.finalAnswer', record -> '$.answer',
    '$.debateRounds', record -> '$.rounds'
  ),
  '$.answer', '$.rounds'
);

UPDATE benchmark_comparisons SET record = json_set(
  record,
  '$.a', json((SELECT run.record FROM benchmark_runs AS run WHERE run.id = benchmark_comparisons.a)),
  '$.b', json((SELECT run.record FROM benchmark_runs AS run WHERE run.id = benchmark_comparisons.b))
);

-- A correction makes a trace eligible whatever its score. The flag is in the index, so counting reads no long text. (An
-- index on a generated column would not be a covering index.)
ALTER TABLE traces ADD COLUMN corrected INTEGER NOT NULL DEFAULT 0 CHECK (corrected IN (0, 1));
UPDATE traces SET corrected = 1 WHERE trim(corrected_answer, char(9, 10, 13, 32)) <> '';
CREATE TRIGGER traces_corrected_insert AFTER INSERT ON traces
WHEN trim(new.corrected_answer, char(9, 10, 13, 32)) <> '' BEGIN
  UPDATE traces SET corrected = 1 WHERE seq = new.seq;
END;
CREATE TRIGGER traces_corrected_update AFTER UPDATE OF corrected_answer ON traces BEGIN
  UPDATE traces SET corrected = coalesce(trim(new.corrected_answer, char(9, 10, 13, 32)) <> '', 0) WHERE seq = new.seq;
END;
DROP INDEX traces_newest;
CREATE INDEX traces_newest
  ON traces (created_at DESC, seq DESC, source, withdrawn_at, user_rating, auto_score, corrected);
DROP INDEX traces_by_place;
CREATE INDEX traces_by_place ON traces (place, source, withdrawn_at, user_rating, auto_score, corrected);
