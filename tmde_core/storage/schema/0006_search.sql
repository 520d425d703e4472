-- Full-text search in every script, newest first without sorting, and filters inside the index.
-- search_words and search_marks are functions of tmde_core.storage.words; the writing connection registers them.

-- The rowids of traces_fts: their order is the order of pages, (created_at, seq). 43 bits of milliseconds since 1970,
-- then 20 bits of seq. Times outside 1970 to 2248 come first or last.
ALTER TABLE traces ADD COLUMN place INTEGER GENERATED ALWAYS AS (
  (coalesce(min(max(unixepoch(created_at) * 1000 + CAST(substr(created_at, 21, 3) AS INTEGER), 0), 8796093022207), 0) << 20)
  | (seq & 1048575)
) VIRTUAL;
-- With all that pages are filtered by, so that counting the matches of a filter never reads the long texts.
CREATE INDEX traces_by_place ON traces (place, source, withdrawn_at, user_rating, auto_score);

DROP TRIGGER traces_fts_insert;
DROP TRIGGER traces_fts_delete;
DROP TABLE traces_fts;
-- The texts are prepared already, so the tokenizer only splits, and finds the stem of English words.
CREATE VIRTUAL TABLE traces_fts USING fts5 (
  words, marks, prefix = '3', tokenize = "porter unicode61 remove_diacritics 0 categories 'L* M* N* Co'"
);
-- 0010 makes the table anew and fills it, so it stays empty here.
CREATE TRIGGER traces_fts_insert AFTER INSERT ON traces BEGIN
  INSERT INTO traces_fts (rowid, words, marks)
  SELECT place, search_words(query || char(10) || final_answer), search_marks(source, withdrawn_at, user_rating, auto_score, corrected_answer, finish_reason)
  FROM traces WHERE seq = new.seq;
END;
CREATE TRIGGER traces_fts_delete AFTER DELETE ON traces BEGIN
  DELETE FROM traces_fts WHERE rowid = old.place;
END;
CREATE TRIGGER traces_fts_update
AFTER UPDATE OF created_at, query, final_answer, source, withdrawn_at, user_rating, auto_score, corrected_answer, finish_reason ON traces BEGIN
  DELETE FROM traces_fts WHERE rowid = old.place;
  INSERT INTO traces_fts (rowid, words, marks)
  SELECT place, search_words(query || char(10) || final_answer), search_marks(source, withdrawn_at, user_rating, auto_score, corrected_answer, finish_reason)
  FROM traces WHERE seq = new.seq;
END;

DROP TRIGGER templates_fts_insert;
DROP TRIGGER templates_fts_delete;
DROP TRIGGER templates_fts_update;
DROP TABLE templates_fts;
CREATE VIRTUAL TABLE templates_fts USING fts5 (
  name, description, domain, methodology, keywords, body,
  tokenize = "porter unicode61 remove_diacritics 0 categories 'L* M* N* Co'"
);
INSERT INTO templates_fts (rowid, name, description, domain, methodology, keywords, body)
  SELECT seq, search_words(name), search_words(description), search_words(domain), search_words(methodology),
         search_words(keywords), search_words(body) FROM templates;
CREATE TRIGGER templates_fts_insert AFTER INSERT ON templates BEGIN
  INSERT INTO templates_fts (rowid, name, description, domain, methodology, keywords, body)
  VALUES (new.seq, search_words(new.name), search_words(new.description), search_words(new.domain),
          search_words(new.methodology), search_words(new.keywords), search_words(new.body));
END;
CREATE TRIGGER templates_fts_delete AFTER DELETE ON templates BEGIN
  DELETE FROM templates_fts WHERE rowid = old.seq;
END;
CREATE TRIGGER templates_fts_update AFTER UPDATE ON templates BEGIN
  DELETE FROM templates_fts WHERE rowid = old.seq;
  INSERT INTO templates_fts (rowid, name, description, domain, methodology, keywords, body)
  VALUES (new.seq, search_words(new.name), search_words(new.description), search_words(new.domain),
          search_words(new.methodology), search_words(new.keywords), search_words(new.body));
END;
