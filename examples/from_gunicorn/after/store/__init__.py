"""A small store, as a WSGI application."""
