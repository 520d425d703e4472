"""The routes of training runs, previews and schedules."""
