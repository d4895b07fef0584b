"""FastAPI: "First Steps"."""

from answer import slow_async, who
from fastapi import FastAPI, Request

app = FastAPI()


@app.get("/")
async def index(request: Request):
    return {"answer": who(request.client.host)}


@app.get("/slow")
async def wait(request: Request):
    return {"answer": await slow_async(request.client.host)}
