"""The parts of the page that decide how a stream goes on: plain modules, run in a browser with times and sockets made up."""

from __future__ import annotations

import pytest

from tests.support.browser import LivePage

FEED = """
    const [{ Feed }, { SentSound }] = [await import("./web/feed.js"), await import("./web/sent.js")];
    const makeSocket = (bufferedAmount = 0) => ({
      bufferedAmount, sent: [],
      send(data) { this.sent.push(typeof data === "string" ? JSON.parse(data).type : data.byteLength / 2); },
    });
    const sound = new SentSound(1000);
    const feed = new Feed(sound, 100); // samples a second
    const second = () => new Float32Array(100);
    const hear = (count, now) => { for (let index = 0; index < count; index++) feed.take(second(), now); };
"""


def test_sound_is_kept_by_its_place_and_forgotten_piece_by_piece(page: LivePage) -> None:
    script = """
        const { SentSound } = await import("./web/sent.js");
        const sound = new SentSound(10);
        const told = [[sound.first, sound.end, sound.at(0)]];
        [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14]].forEach((piece) => sound.add(Float32Array.from(piece)));
        told.push([sound.first, sound.end, ...[3, 4, 6, 12, 13, 14].map((at) => sound.at(at) && [...sound.at(at)])]);
        sound.forgetBefore(99);
        told.push([sound.first, sound.end, sound.at(13)]);
        return told;
    """
    assert page.run(script) == [
        [0, 0, None],
        [4, 14, None, [5, 6, 7, 8], [7, 8], [13, 14], [14], None],
        [14, 14, None],
    ]


def test_sound_is_sent_as_it_is_heard_and_what_is_behind_at_four_times_its_speed(page: LivePage) -> None:
    script = (
        FEED
        + """
        const [first, second_] = [makeSocket(), makeSocket()];
        feed.begin(first, 0, 0);
        hear(2, 0);
        feed.leave();
        hear(6, 0);
        feed.begin(second_, 150, 0);
        hear(1, 0);
        const told = [[...first.sent], [...second_.sent]];
        for (const now of [100, 350, 1000, 2000]) { feed.tick(now); told.push([...second_.sent]); }
        hear(1, 2000);
        told.push([...second_.sent]);
        return told;
    """
    )
    told = page.run(script)
    assert told[:2] == [[100, 100], []]
    assert told[2] == [50], "0.4 s are due, and a piece is sent whole"
    assert told[3] == [50, 100]
    assert told[4] == [50, 100, 100, 100, 100]
    assert told[5] == [50, *[100] * 7], "all is sent"
    assert told[6] == [50, *[100] * 8], "at once again"


def test_stop_follows_the_last_sound_over_whichever_connection(page: LivePage) -> None:
    script = (
        FEED
        + """
        const [first, other] = [makeSocket(), makeSocket()];
        feed.begin(first, 0, 0);
        hear(1, 0);
        feed.finish();
        feed.tick(100);
        feed.tick(200);
        feed.leave();
        feed.begin(other, 0, 300);
        feed.tick(600);
        return [first.sent, other.sent];
    """
    )
    assert page.run(script) == [[100, "stop"], [100, "stop"]]


def test_a_network_that_takes_nothing_is_noticed(page: LivePage) -> None:
    script = (
        FEED
        + """
        const socket = makeSocket(401); // more than two seconds of it
        feed.begin(socket, 0, 0);
        hear(3, 0);
        feed.tick(5000);
        const told = [feed.behindSeconds, feed.stillSeconds(5000), socket.sent.length];
        feed.hear(5000);
        told.push(feed.stillSeconds(6000));
        return told;
    """
    )
    assert page.run(script) == [3, 5, 0, 1]


def test_what_is_to_be_sent_yet_is_not_forgotten_while_there_is_a_connection(page: LivePage) -> None:
    script = (
        FEED
        + """
        hear(30, 0);
        const told = [sound.first];
        sound.hold(sound.first); // as while a connection is made
        hear(2, 1000);
        told.push(sound.first);
        const socket = makeSocket();
        feed.begin(socket, sound.first, 2000);
        hear(3, 2000);
        feed.tick(3000);
        told.push(sound.first, feed.behindSeconds, socket.sent.length);
        hear(1, 3000);
        told.push(sound.first);
        feed.tick(8000);
        hear(1, 8000);
        told.push(sound.first, feed.behindSeconds);
        feed.leave();
        hear(20, 9000);
        told.push(sound.first);
        return told;
    """
    )
    kept = [2000, 2000]
    catching_up = [2000, 11, 4]
    assert page.run(script) == [*kept, *catching_up, 2400, 2700, 0, 4700]


AXIS = """
    const { Axis } = await import("./web/axis.js");
    const axis = new Axis(10);
    axis.configure({ window: 5, hop: 1 });
"""


@pytest.mark.parametrize(
    ("kept", "base", "lost"),
    [
        (0, 60, []),  # the window that ends at 11 s is whole
        (65, 70, []),  # as much of it as is kept, where windows end at whole seconds
        (100, 100, []),
        (120, 120, [[10, 12]]),
    ],
)
def test_a_new_stream_begins_where_its_first_new_window_is_as_full_as_can_be(
    page: LivePage, kept: int, base: int, lost: list[list[float]]
) -> None:
    script = (
        AXIS
        + """
        for (let end = 1; end <= 10; end++) axis.answer(end);
        const lost = axis.beginAnew(args[0]);
        const news = [];
        for (let end = 1; end <= 6; end++) if (axis.answer(end)) news.push(axis.base / 10 + end);
        return [axis.base, lost, news];
    """
    )
    news = [second for second in range(11, 19) if base // 10 < second <= base // 10 + 6]
    assert page.run(script, kept) == [base, lost, news]


def test_nothing_is_asked_for_that_lies_before_a_gap(page: LivePage) -> None:
    script = (
        AXIS
        + """
        axis.answer(10);
        const lost = axis.miss([[10.5, 20]]);
        axis.answer(21);
        const again = axis.beginAnew(0);
        const [first, at] = [axis.base, axis.at(3)];
        return [lost, again, first, at, axis.drop(0.5, 1.5), axis.drop(0.5, 1.5)];
    """
    )
    assert page.run(script) == [[[10.5, 20]], [], 200, 230, 0.5, 0]


def test_stretches_that_touch_are_one_gap_and_count_once(page: LivePage) -> None:
    script = """
        const { Gaps } = await import("./web/gaps.js");
        const gaps = new Gaps();
        const added = [[5, 7], [1, 2], [6, 8], [8, 9], [0, 10], [3, 4]].map(([from, to]) => gaps.add(from, to));
        return [added, gaps.stretches, gaps.seconds];
    """
    assert page.run(script) == [[2, 1, 1, 1, 5, 0], [{"from": 0, "to": 10}], 10]


def test_the_page_comes_back_often_while_the_server_keeps_the_stream_and_seldom_after(page: LivePage) -> None:
    script = """
        const { pauseSeconds } = await import("./web/resumption.js");
        const early = [0, 1, 2, 3, 9].map((failures) => pauseSeconds(failures, 5, null, 0.5));
        return [early, pauseSeconds(9, 31, null, 0.5), pauseSeconds(0, 1, 7, 0.5), pauseSeconds(0, 1, null, 0)];
    """
    assert page.run(script) == [[0.5, 1, 2, 4, 4], 15, 7, 0.375]


def test_only_what_would_be_refused_again_is_final(page: LivePage) -> None:
    script = """
        const { isFinal } = await import("./web/resumption.js");
        const codes = [1001, 1006, 1011, 1012, 1013, 4408, 4503, 1007, 4400, 4401, 4415];
        const quota = [true, false].map((retryable) => isFinal(4429, { retryable }));
        const spent = [300, 301].map((retry_after_s) => isFinal(4429, { retryable: true, retry_after_s }));
        const answers = [[404, false], [429, true], [500, false], [503, true]];
        return [
          codes.filter((code) => isFinal(code, null)), ...quota, ...spent,
          ...answers.map(([status, retryable]) => isFinal(status, { retryable })),
        ];
    """
    assert page.run(script) == [[1007, 4400, 4401, 4415], False, True, False, True, True, False, False, False]
