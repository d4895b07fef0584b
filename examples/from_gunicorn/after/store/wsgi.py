"""The application: it reports in JSON what it sees of a request and of its settings."""

import atexit
import json
import logging
import os
import sqlite3

log = logging.getLogger("store")
database = sqlite3.connect(":memory:", check_same_thread=False)  # one in each worker


@atexit.register
def close():
    database.close()
    log.info("the store is closed")


def application(environ, start_response):
    log.info("asked for %s", environ["PATH_INFO"])
    (price,) = database.execute("select 3").fetchone()
    seen = {
        "client": environ.get("REMOTE_ADDR"),
        "forwarded": environ.get("HTTP_X_FORWARDED_FOR"),
        "scheme": environ["wsgi.url_scheme"],
        "path": environ["PATH_INFO"],
        "mode": os.environ.get("STORE_MODE"),
        "prices": {"tea": price},
    }
    body = json.dumps(seen).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
