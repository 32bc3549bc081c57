"""For those who operate it: liveness, readiness, metrics."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import Response

from service.api.admission import REFUSALS
from service.api.schemas import HealthAnswer, error_responses
from service.services import Services

router = APIRouter(tags=["operation"])


@router.head("/health/live", include_in_schema=False)
@router.get("/health/live")
async def live() -> HealthAnswer:
    """The process answers."""
    return HealthAnswer(status="live")


@router.head("/health/ready", include_in_schema=False)
@router.get("/health/ready", responses=error_responses({503: "Not warm yet, or draining"}))
async def ready(request: Request) -> HealthAnswer:
    """New work is taken: 503 until the models are warm, and again while draining."""
    services: Services = request.app.state.services
    services.lifecycle.check_ready()
    return HealthAnswer(status="ready")


@router.get("/metrics", response_class=Response, responses=REFUSALS)
async def metrics(request: Request) -> Response:
    """What Prometheus scrapes; with several workers, of all of them."""
    services: Services = request.app.state.services
    # Not in the decoding pool: a scrape must not wait for files.
    body, content_type = await asyncio.to_thread(services.metrics.render)
    return Response(body, headers={"Content-Type": content_type})
