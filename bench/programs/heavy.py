"""A FastAPI application that imports numpy, and reports which process answers."""

import os

import numpy as np
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

app = FastAPI()
_NUMBERS = np.arange(16)


@app.get("/")
async def answer() -> PlainTextResponse:
    return PlainTextResponse(str(os.getpid() + int(_NUMBERS[0])))
