"""Plain data that several packages share. Records do not depend on stores, services or plugins."""
