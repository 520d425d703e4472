-- What a notification is about, so that a page can offer what to do next.

ALTER TABLE notifications ADD COLUMN subject_id TEXT;        -- a run or an adapter; NULL: neither
CREATE INDEX notifications_by_subject ON notifications (subject_id) WHERE subject_id IS NOT NULL;
