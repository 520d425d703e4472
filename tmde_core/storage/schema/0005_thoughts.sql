-- Thoughts of thinking models, apart from the answers; and why each answer ended.

ALTER TABLE rounds ADD COLUMN proposer_thought TEXT NOT NULL DEFAULT '';
ALTER TABLE rounds ADD COLUMN skeptic_thought TEXT NOT NULL DEFAULT '';
ALTER TABLE rounds ADD COLUMN proposer_finish_reason TEXT;
ALTER TABLE rounds ADD COLUMN skeptic_finish_reason TEXT;

ALTER TABLE traces ADD COLUMN finish_reason TEXT;     -- of the final answer; NULL: unknown
-- The traces whose answer was cut off, and which no person has rated or corrected. They are few.
CREATE INDEX traces_cut ON traces (source, withdrawn_at, auto_score)
  WHERE finish_reason IN ('length', 'content_filter') AND user_rating IS NULL AND corrected_answer IS NULL;
