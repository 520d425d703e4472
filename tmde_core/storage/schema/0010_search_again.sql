-- The full-text index with the prefixes of four to six letters, too. Without them, a search while somebody types a word
-- merged the traces of every word that begins so: 4 letters of a common beginning took up to 1.8 s for 100,000 traces.
-- The triggers of 0006 stay: they name the table. All texts are prepared anew, because search finds Latin letters with a
-- stroke (Vietnamese, Polish, Danish) by the plain letters now, and the digits of other scripts by 0 to 9.
DROP TABLE traces_fts;
CREATE VIRTUAL TABLE traces_fts USING fts5 (
  words, marks, prefix = '3 4 5 6', tokenize = "porter unicode61 remove_diacritics 0 categories 'L* M* N* Co'"
);
INSERT INTO traces_fts (rowid, words, marks)
  SELECT place, search_words(query || char(10) || final_answer), search_marks(source, withdrawn_at, user_rating, auto_score, corrected_answer, finish_reason)
  FROM traces ORDER BY place;

-- Of the templates, only those with such a letter or digit.
UPDATE templates SET name = name
WHERE name || description || domain || methodology || keywords || body GLOB '*[đĐðÐħĦıłŁøØŧŦþÞæÆœŒǽǼǣǢǿǾ٠-٩۰-۹߀-߉०-९০-৯੦-੯૦-૯୦-୯௦-௯౦-౯೦-೯൦-൯๐-๙໐-໙༠-༩၀-၉០-៩᠐-᠙]*';
