"""What a person should know: kept, shown by the bell, sent to a webhook."""
