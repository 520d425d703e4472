"""Parts that all routes share: requests, problems, event streams, and the checks of Host and Origin."""
