"""What the OpenAPI description says of keys."""

from __future__ import annotations

from service.app import create_app
from service.settings import Settings
from tests.support.runners import FakeRunner


def test_calls_that_want_a_key_say_so_also_after_another_route_has_come() -> None:
    app = create_app(Settings(_env_file=None), runner=FakeRunner())
    for turn in range(2):
        document = app.openapi()
        assert document["components"]["securitySchemes"] == {
            "HTTPBearer": {
                "type": "http",
                "scheme": "bearer",
                "description": "An API key or a token, where the service has keys.",
            }
        }
        wanted = {path for path, calls in document["paths"].items() for call in calls.values() if "security" in call}
        assert {"/v1/classify", "/v1/tokens", "/metrics"} <= wanted
        assert not {"/health/live", "/asyncapi.json"} & wanted
        app.add_api_route(f"/v1/others/{turn}", lambda: None)
    assert "security" in app.openapi()["paths"]["/v1/others/1"]["get"]


def test_no_key_is_asked_for_where_the_settings_do_not() -> None:
    paths = create_app(Settings(_env_file=None, metrics="open"), runner=FakeRunner()).openapi()["paths"]
    assert "security" not in paths["/metrics"]["get"]
    assert "security" in paths["/v1/models"]["get"]
