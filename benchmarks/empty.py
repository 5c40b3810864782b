"""The empty endpoint: the yardstick that the service's rates are divided by.

FROZEN. A rate by itself says as much of the machine as of the service, so the benchmarks report ratios to this file. A ratio of
today can be held against one of last year only if this file is the same, byte for byte: do not tidy it, speed it up or slow it
down. If it must change, every published ratio is void.

It is the least a FastAPI application can do with the body of an append: parse and validate it, and answer a small object. There is
no middleware, no database, no key, no log. The body's models are written out here, so that no change of the service changes them.
"""

from fastapi import FastAPI
from pydantic import BaseModel


class Source(BaseModel):
    kind: str
    name: str | None = None
    via: str | None = None
    published_on: str | None = None


class Figure(BaseModel):
    figure_id: str
    amount: str
    currency: str
    basis: str
    bound: str
    scope: str
    note: str | None = None


class Data(BaseModel):
    figure: Figure


class FigureStated(BaseModel):
    effective_on: str
    source: Source
    data: Data


app = FastAPI()


@app.post("/", status_code=201)
async def append(event: FigureStated) -> dict[str, str]:
    return {"figure_id": event.data.figure.figure_id}


@app.get("/")
async def read() -> dict[str, str]:
    return {"status": "empty"}
