from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from bench.duel import Contestant, stand, to_markdown


def test_a_contestant_is_a_folder_with_an_environment_and_may_have_variables(tmp_path: Path) -> None:
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert Contestant.parse(f"a={tmp_path}") == Contestant("a", tmp_path, {})
    assert Contestant.parse(f"a={tmp_path},X=1,Y=b=c").variables == {"X": "1", "Y": "b=c"}
    for wrong in ("a", f"={tmp_path}", f"a={tmp_path}/nowhere"):
        with pytest.raises(argparse.ArgumentTypeError, match="NAME=FOLDER"):
            Contestant.parse(wrong)


def test_what_counts_is_what_each_did_of_the_first_one_in_the_same_round() -> None:
    duel = stand("5 s of WAV", {"old": [100.0, 50.0, 10.0], "new": [110.0, 60.0, 13.0]})
    assert "| clips: 5 s of WAV, 3 rounds |" in to_markdown(duel)
    assert "| old | 50.0 | 1.000 (1.000 to 1.000) |" in to_markdown(duel)
    assert "| new | 60.0 | 1.200 (1.150 to 1.250) |" in to_markdown(duel)


def test_a_round_that_not_all_have_done_does_not_count() -> None:
    duel = stand("5 s of WAV", {"old": [2.0, 5.0], "new": [3.0]})
    assert duel.rounds == 1
    assert [(one.windows_per_second, one.quartiles) for one in duel.standings] == [(2.0, (1.0, 1.0)), (3.0, (1.5, 1.5))]
