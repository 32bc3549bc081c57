"""`POST /v1/tokens`: short-lived tokens, which a holder of a key gives to browsers in its place."""

from __future__ import annotations

from typing import Annotated

import pydantic
from fastapi import APIRouter, Request
from fastapi.responses import Response

from service.access.keys import Scope
from service.access.tokens import DEFAULT_TOKEN_SECONDS, MAX_TOKEN_SECONDS
from service.api.admission import REFUSALS, caller_of
from service.api.schemas import error_responses
from service.api.uploads import limit_body
from service.services import Services
from service.validation import parameter_error

MAX_BYTES = 4096

router = APIRouter(tags=["access"])


class TokenRequest(pydantic.BaseModel):
    """What is wanted of a token."""

    model_config = pydantic.ConfigDict(extra="forbid")

    scopes: list[Scope] | None = None
    seconds: Annotated[int, pydantic.Field(ge=1, le=MAX_TOKEN_SECONDS)] = DEFAULT_TOKEN_SECONDS


class TokenAnswer(pydantic.BaseModel):
    """A token, what it is for, and how many seconds it can be used to come in with."""

    token: str
    scopes: list[Scope]
    expires_in: int


@router.post(
    "/v1/tokens",
    response_model=TokenAnswer,
    responses=REFUSALS
    | error_responses(
        {
            400: "A bad parameter",
            401: "No API key, or none that is known",
            403: "More than the key is for, or a token in place of a key",
            408: "The body came too slowly",
            413: "Too large",
        }
    ),
    openapi_extra={"requestBody": {"content": {"application/json": {"schema": TokenRequest.model_json_schema()}}}},
)
async def issue_token(request: Request) -> Response:
    """Give a token for some of the key's scopes, all of them by default; without a body for a minute."""
    services: Services = request.app.state.services
    body = await limit_body(request, services.settings, services.lifecycle, max_bytes=MAX_BYTES).body()
    try:
        asked = TokenRequest.model_validate_json(body) if body.strip() else TokenRequest()
    except pydantic.ValidationError as error:
        raise parameter_error(error, TokenRequest.model_fields) from error
    caller = caller_of(request)
    scopes = caller.scopes if asked.scopes is None else frozenset(asked.scopes)
    token = services.guard.issue_token(caller, scopes, asked.seconds)
    answer = TokenAnswer(token=token, scopes=sorted(scopes), expires_in=asked.seconds)
    return Response(answer.model_dump_json(), media_type="application/json", headers={"Cache-Control": "no-store"})
