"""A small shop, as an ASGI application."""
