"""The yardstick for what a service costs that does nothing: an empty FastAPI handler.

uvicorn empty_service:app --loop uvloop --http httptools --no-access-log
"""

from __future__ import annotations

from fastapi import FastAPI

app = FastAPI()


@app.post("/predict")
async def predict() -> dict[str, bool]:
    """Answer, and nothing else."""
    return {"ok": True}
