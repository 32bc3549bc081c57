from __future__ import annotations

import pytest
from starlette.datastructures import QueryParams

from service.answers import ClassifyQuery
from service.api.queries import describe_query, read_query
from service.errors import InvalidParameter


def test_a_query_is_read_with_all_values_of_a_list() -> None:
    query = read_query(ClassifyQuery, QueryParams("labels=Dog&labels=1&top_k=4&top_k=4&timeline=true&window=1.5&events={}"))
    assert query == ClassifyQuery(labels=["Dog", "1"], top_k=4, timeline=True, window=1.5, events="{}")
    assert read_query(ClassifyQuery, QueryParams("")) == ClassifyQuery()


@pytest.mark.parametrize(
    ("query", "param", "problem"),
    [
        ("top_k=0", "top_k", "greater than or equal to 1; got '0'"),
        ("window=nan", "window", "finite"),
        ("channel=", "channel", "valid integer"),
        ("timeline=maybe", "timeline", "valid boolean"),
        ("aggregate=sum", "aggregate", "'mean' or 'max'"),
        ("topk=3", "topk", "did you mean top_k?"),
        ("topk=3&topk=4", "topk", "did you mean top_k?"),
        ("top_k=3&top_k=4", "top_k", "given twice, as '3' and '4'"),
    ],
)
def test_the_first_problem_of_a_query_is_named(query: str, param: str, problem: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        read_query(ClassifyQuery, QueryParams(query))
    assert caught.value.param == param
    assert problem in caught.value.message


def test_every_parameter_is_described() -> None:
    described = describe_query(ClassifyQuery)
    assert [parameter["name"] for parameter in described] == list(ClassifyQuery.model_fields)
    assert all(parameter["description"] for parameter in described)
    assert described[0] == {
        "name": "top_k",
        "in": "query",
        "required": False,
        "description": "How many tags; more than there are labels means all.",
        "schema": {"type": "integer", "minimum": 1, "default": 5, "title": "Top K"},
    }
