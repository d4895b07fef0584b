"""Flask: "A Minimal Application", by `flask run` or `app.run`."""

import sys

from answer import slow, who
from flask import Flask, request

app = Flask(__name__)


@app.route("/")
def index():
    return who(request.remote_addr)


@app.route("/slow")
def wait():
    return slow(request.remote_addr)


if __name__ == "__main__":
    app.run(port=int(sys.argv[1]))
