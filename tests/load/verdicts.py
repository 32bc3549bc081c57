"""What was answered, held against what was sent. Pure: `tests.load.traffic` sends and listens, these say what to think of it.

All raise `Wrong` for what nobody promised and `Refused` for a refusal as it is promised.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.load.account import GOOD, Refused, Wrong

TOLERANCE_SECONDS = 0.01
"""Resampling may make a sample more or less, and times on the wire are rounded."""
Message = dict[str, Any]


@dataclass(frozen=True)
class Heard:
    """What there is to hear.

    Attributes:
        seconds: How long it lasts.
        label: What every window of it has first.
    """

    seconds: float
    label: str

    def check_tags(self, answer: Message) -> None:
        """The label comes first."""
        if not answer["tags"] or answer["tags"][0]["label"] != self.label:
            raise Wrong(f"{self.label} is not what was heard: {answer}")

    def check_duration(self, answer: Message) -> None:
        """It is as long as what was sent."""
        if abs(answer["duration"] - self.seconds) > TOLERANCE_SECONDS:
            raise Wrong(f"{self.seconds:.3f} s were sent: {answer}")


def judge_clip(answer: Message, heard: Heard) -> str:
    """Judge the answer to a clip."""
    heard.check_tags(answer)
    heard.check_duration(answer)
    return GOOD


def judge_batch(results: Sequence[Message], heard: Sequence[Heard | None]) -> str:
    """Judge the answers to a batch; None stands for a file that is no sound."""
    if len(results) != len(heard):
        raise Wrong(f"{len(heard)} files, {len(results)} results")
    errors = [result.get("error") for result in results]
    for result, error, sound in zip(results, errors, heard, strict=True):
        if error is None and sound is not None:
            judge_clip(result, sound)
        elif error is None or not (error["retryable"] or (sound is None and error["code"] == "unsupported_audio")):
            raise Wrong(f"for {sound}: {result}")
    if any(error and error["retryable"] for error in errors):
        raise Refused
    return GOOD


def judge_lines(lines: Sequence[Message], heard: Heard, window: float, hop: float) -> str:
    """Judge an answer line by line: every window in order, then the summary, or an error that says when to come again."""
    *windows, last = lines
    if any(line["type"] != "window" for line in windows):
        raise Wrong(f"the lines are {[line['type'] for line in lines]}")
    told = follow_windows(windows, heard, window, hop)
    progress = [line["progress"] for line in windows]
    if progress != sorted(progress) or not all(0 <= done <= 1 for done in progress):
        raise Wrong(f"the progress is {progress}")
    if last["type"] == "error" and last["error"]["retryable"]:
        raise Refused
    if last["type"] != "summary" or abs(told - heard.seconds) > TOLERANCE_SECONDS:
        raise Wrong(f"the windows end at {told}, {heard.seconds:.3f} s were sent: {last}")
    return judge_clip(last, heard)


def follow_windows(messages: Iterable[Message], heard: Heard, window: float, hop: float) -> float:
    """Return up to where windows have told, in seconds: each begins to tell where the one before it, or what was announced as
    dropped, has ended, and is where it belongs, and has the label first."""
    position = 0.0
    for message in messages:
        if message["type"] in ("tags", "window"):
            start, end = message["start"], message["end"]
            if not position < end <= position + hop + TOLERANCE_SECONDS:
                raise Wrong(f"a window ends at {end} s, the one before it at {position} s, and the hop is {hop} s")
            if abs(start - max(0.0, end - window)) > TOLERANCE_SECONDS:
                raise Wrong(f"a window of {window} s is from {start} s to {end} s")
            heard.check_tags(message)
            position = end
        elif message["type"] == "warning" and message["code"] == "lag":
            if abs(message["dropped_from"] - position) > TOLERANCE_SECONDS:
                raise Wrong(f"windows have told up to {position} s: {message}")
            position = message["dropped_to"]
    return position


def judge_stream(messages: Sequence[Message], code: int | None, heard: Heard) -> str:
    """Judge all that a stream was told, `ready` first, and its close.

    Raises:
        ConnectionResetError: It ended without a close.
    """
    told = 0.0
    if messages and messages[0]["type"] == "ready":  # else something was refused before there was a stream
        seqs = [message.get("seq") for message in messages[1:]]
        if seqs != list(range(1, len(seqs) + 1)):
            raise Wrong(f"the numbers of the messages are {seqs}")
        configuration = messages[0]["configuration"]
        told = follow_windows(messages, heard, configuration["window"], configuration["hop"])
    fatal = next((message for message in messages if message["type"] == "error" and message["fatal"]), None)
    if fatal is not None and fatal["retryable"] and code in (4503, 1001):
        raise Refused
    if code in (1006, None, 1005):
        raise ConnectionResetError("the stream ended without a close")
    if code == 1001 and any(message["type"] == "going_away" for message in messages):
        raise Refused
    if code != 1000 or messages[-1]["type"] != "summary":
        raise Wrong(f"closed with {code} after {messages[-2:]}")
    return _judge_summary(messages, told, heard)


def _judge_summary(messages: Sequence[Message], told: float, heard: Heard) -> str:
    summary = messages[-1]
    heard.check_duration(summary)
    if abs(told - heard.seconds) > TOLERANCE_SECONDS:
        raise Wrong(f"windows have told up to {told} s, {heard.seconds:.3f} s were sent")
    num_windows = sum(message["type"] == "tags" for message in messages)
    lags = [message for message in messages if message["type"] == "warning" and message["code"] == "lag"]
    dropped = sum(message["dropped_to"] - message["dropped_from"] for message in lags)
    if summary["windows"] != num_windows or abs(summary["dropped_seconds"] - dropped) > TOLERANCE_SECONDS:
        raise Wrong(f"{num_windows} windows came and {dropped} s were announced as dropped: {summary}")
    return GOOD


def pause_before_resuming(second: Sequence[Message]) -> float | None:
    """Return after how many seconds to come again for a stream that is kept, and that cannot be had now; None where it was."""
    for message in second:
        if message["type"] == "error" and message["code"] == "unavailable" and message["retryable"]:
            return float(message["retry_after_s"])
    return None


def join_resumed(first: Sequence[Message], second: Sequence[Message]) -> list[Message]:
    """Return what a stream was told over two connections as if there had been one.

    Raises:
        ConnectionResetError: Nobody had the stream any more, and a new one began.
    """
    if any(message["type"] == "error" and message["code"] == "resume_unknown" for message in second):
        raise ConnectionResetError("the stream was not kept")
    if second and second[0]["type"] == "ready" and second[0]["missing"] != []:
        raise Wrong(f"all that is missing was sent again: {second[0]}")
    return [*first, *(message for message in second if message["type"] != "ready")]
