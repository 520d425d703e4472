"""Python environments of training backends: installing, examining and removing them."""
