"""The service's settings under gunicorn."""

import multiprocessing
import os

wsgi_app = "store.wsgi:application"
bind = ["127.0.0.1:8443", "unix:run/store.sock"]
backlog = 512
workers = int(os.environ.get("STORE_WORKERS", multiprocessing.cpu_count()))
worker_class = "gthread"
threads = 8
timeout = 60
graceful_timeout = 25
keepalive = 5
max_requests = 10000
max_requests_jitter = 500
umask = 0o007
pidfile = "run/store.pid"
proc_name = "store"
raw_env = ["STORE_MODE=live"]
certfile = "tls/cert.pem"
keyfile = "tls/key.pem"
forwarded_allow_ips = "*"
logconfig = "logging.ini"
accesslog = "log/access.log"
access_log_format = '%(h)s "%(r)s" %(s)s'


def post_fork(server, worker):
    from store.wsgi import connect  # type: ignore[import-not-found] # its folder is this one

    connect()


def worker_exit(server, worker):
    from store.wsgi import close

    close()
