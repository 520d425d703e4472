"""Parts that all commands share: invocation, output, logs and crash reports."""
