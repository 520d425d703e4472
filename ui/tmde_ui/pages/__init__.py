"""One module a page; each `register` puts its addresses into the app."""
