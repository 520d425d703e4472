"""Things that happen by themselves: cron expressions, and what was decided each time."""
