-- Adapters as versions: what was done to them, not only which one answers.

ALTER TABLE lora_events ADD COLUMN operation TEXT NOT NULL DEFAULT 'activate'
  CHECK (operation IN ('activate', 'rollback', 'deactivate', 'import', 'delete'));
ALTER TABLE lora_events ADD COLUMN note TEXT;  -- why: forced, rolled back by the gate, origin of an import
UPDATE lora_events SET operation = 'rollback' WHERE triggered_by = 'rollback';
UPDATE lora_events SET operation = 'deactivate' WHERE adapter_id IS NULL AND triggered_by <> 'rollback';
CREATE INDEX lora_events_by_time ON lora_events (timestamp);
