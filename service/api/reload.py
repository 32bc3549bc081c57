"""`POST /v1/models/reload`: new models from the same folders, without a restart."""

from __future__ import annotations

import pydantic
from fastapi import APIRouter, Request

from service.api.admission import REFUSALS
from service.api.schemas import error_responses
from service.errors import ReloadFailed
from service.keeper.reloads import RELOAD_SECONDS
from service.keeper.topics import RELOAD_MODELS, Nothing
from service.services import Services

router = APIRouter(tags=["models"], responses=REFUSALS)


class ReloadAnswer(pydantic.BaseModel):
    """The names of the models that are served, now from what is in their folders, and how many workers did not say in time that
    they had changed and are replaced by others, which start with the new models."""

    models: list[str]
    workers_replaced: int


@router.post(
    "/v1/models/reload",
    responses=error_responses({409: "The new models cannot be served, or are being loaded already; the old ones serve on"}),
)
async def reload_models(request: Request) -> ReloadAnswer:
    """Serve what is in the bundles' folders now, in all workers; answered when they do."""
    services: Services = request.app.state.services
    with services.lifecycle.admit():
        reloaded = await services.keeper.ask(RELOAD_MODELS, Nothing(), seconds=RELOAD_SECONDS)
        if reloaded.reason is not None:
            raise ReloadFailed(f"the old models serve on: {reloaded.reason}")
        return ReloadAnswer(models=list(services.catalog.names), workers_replaced=reloaded.num_replaced)
