"""Plain data that several rooms share. Records know no store, service or plugin."""
