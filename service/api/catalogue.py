"""REST: what is served (`/v1/models`, `/v1/labels`) and how much of it can be had (`/v1/capacity`)."""

from __future__ import annotations

import asyncio
from typing import Final

from fastapi import APIRouter, Request

from service.answers import CapacityAnswer
from service.api.admission import REFUSALS
from service.api.capacity import make_capacity
from service.api.schemas import LabelItem, LabelsAnswer, error_responses
from service.services import Services

router = APIRouter(responses=REFUSALS)

_UNKNOWN: Final = error_responses({404: "No such model"})


@router.get("/v1/models", tags=["models"])
async def list_models(request: Request) -> dict[str, object]:
    """What is served; the first is the default."""
    services: Services = request.app.state.services
    catalog = services.catalog
    return {"default": catalog.default, "models": [catalog.describe(name) for name in catalog.names]}


@router.get("/v1/capacity", tags=["operation"])
async def get_capacity(request: Request) -> CapacityAnswer:
    """How much there is to do and how much can be taken, over all workers."""
    services: Services = request.app.state.services
    models = [batcher.spec for batcher in services.catalog]
    # As for a scrape: it reads files where there are several workers, and must not wait for sound in the pool.
    gauges = await asyncio.to_thread(services.metrics.read_gauges)
    return make_capacity(gauges, models, services.stream_limit)


@router.get("/v1/models/{name}", tags=["models"], responses=_UNKNOWN)
async def get_model(request: Request, name: str) -> object:
    """One served model."""
    services: Services = request.app.state.services
    return services.catalog.describe(name)


@router.get("/v1/labels", tags=["models"], response_model=LabelsAnswer, responses=_UNKNOWN)
async def list_labels(request: Request, model: str | None = None) -> LabelsAnswer:
    """The labels of a model, with their ids."""
    services: Services = request.app.state.services
    spec = services.catalog.get(model).spec
    return LabelsAnswer(model=spec.name, labels=[LabelItem(id=index, label=label) for index, label in enumerate(spec.labels)])
