"""Who answers what: handlers by topic, for questions that come over a socket and for those of the same process."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar

from service.keeper.topics import Message, Topic

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)
Reply = Message | Awaitable[Message]


class Desk:
    """Answers questions. Its methods belong to one event loop; a handler must return at once or an awaitable."""

    def __init__(self) -> None:
        self._handlers: dict[str, Callable[[int, Message], Reply]] = {}
        self._questions: dict[str, type[Message]] = {}

    def add(self, topic: Topic[Q, A], handler: Callable[[int, Q], A | Awaitable[A]]) -> None:
        """Have a topic answered.

        Args:
            topic: Which; one handler each.
            handler: Takes who asks (a worker's number; 0 for the keeper and where there is one process) and the question.
        """
        if topic.name in self._handlers:
            raise ValueError(f"the topic {topic.name} has a handler already")

        def answer(asker: int, question: Message) -> Reply:
            assert isinstance(question, topic.question)
            return handler(asker, question)

        self._handlers[topic.name] = answer
        self._questions[topic.name] = topic.question

    def parse(self, name: str, body: bytes) -> Message:
        """Return a question that came as JSON.

        Raises:
            KeyError: Nobody answers this topic.
            pydantic.ValidationError: It is no such question.
        """
        return self._questions[name].model_validate_json(body)

    def answer(self, name: str, asker: int, question: Message) -> Reply:
        """Have a question answered, at once or with an awaitable.

        Raises:
            KeyError: Nobody answers this topic.
        """
        return self._handlers[name](asker, question)

    async def ask(self, topic: Topic[Q, A], asker: int, question: Q) -> A:
        """Have a question of the same process answered.

        Raises:
            KeyError: Nobody answers this topic.
        """
        reply = self.answer(topic.name, asker, question)
        answer = await reply if inspect.isawaitable(reply) else reply
        assert isinstance(answer, topic.answer)
        return answer
