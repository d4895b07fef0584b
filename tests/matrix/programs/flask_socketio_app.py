"""Flask-SocketIO: `socketio.run`, with threads."""

import sys

from answer import slow, who
from flask import Flask, request
from flask_socketio import SocketIO

app = Flask(__name__)
socketio = SocketIO(app, async_mode="threading")


@socketio.on("who")
def on_who():
    return who(request.remote_addr)


@socketio.on("slow")
def on_slow():
    return slow(request.remote_addr)


if __name__ == "__main__":
    socketio.run(app, port=int(sys.argv[1]), allow_unsafe_werkzeug=True)
