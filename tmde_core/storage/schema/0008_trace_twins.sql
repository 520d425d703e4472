-- An import looks for traces that have the same question and answer. Whole texts would make a large index, so the index
-- holds a beginning and the lengths; few traces share these.
CREATE INDEX traces_by_content ON traces (substr(query, 1, 64), length(query), length(final_answer));
