"""A plugin that needs something that is not installed."""

import a_library_that_nobody_installed  # noqa: F401  # type: ignore[import-not-found]
