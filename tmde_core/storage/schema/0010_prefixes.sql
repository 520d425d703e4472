-- The full-text index with the prefixes of four to six letters, too. Without them, a search while somebody types a word
-- merged the traces of every word that begins so: 4 letters of a common beginning took up to 1.8 s for 100,000 traces.
-- The triggers of 0006 stay: they name the table.
DROP TABLE traces_fts;
CREATE VIRTUAL TABLE traces_fts USING fts5 (
  words, marks, prefix = '3 4 5 6', tokenize = "porter unicode61 remove_diacritics 0 categories 'L* M* N* Co'"
);
INSERT INTO traces_fts (rowid, words, marks)
  SELECT place, search_words(query || char(10) || final_answer), search_marks(source, withdrawn_at, user_rating, auto_score, corrected_answer, finish_reason)
  FROM traces ORDER BY place;
