"""Engines that run an ASGI or WSGI application inside a worker."""
