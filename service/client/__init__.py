"""The Python client: clips over REST and live streams over the websocket, with typed answers and typed errors.

`AsyncClient` does the work, `Client` is the same for programs without an event loop. What a server refuses is raised as the
class of `service.errors` that the server raised itself, with its ``code``, ``message``, ``param``, ``retryable`` and
``retry_after_s``; what the network does is raised as one of `service.client.errors`, which belong to the same tree.
"""

from service.client.async_client import AsyncClient, Classified
from service.client.errors import BadAnswer, ClientClosed, Disconnected, Unreachable
from service.client.retry import Retry
from service.client.sync_client import Client
from service.errors import ServiceError

__all__ = [
    "AsyncClient",
    "BadAnswer",
    "Classified",
    "Client",
    "ClientClosed",
    "Disconnected",
    "Retry",
    "ServiceError",
    "Unreachable",
]
