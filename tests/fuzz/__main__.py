"""The long form of the fuzzing: `python -m tests.fuzz [--cases N] [--seed S]`, which is `make fuzz`.

One case in five is a damaged file for the decoder processes, as a file or as a stream; the others are guided by coverage
(atheris), each target in a process of its own. What breaks a promise is kept in `build/fuzz`, and the exit code says so;
so it does where fewer cases were run of a target than were asked for.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from service.decoders.nursery import Nursery
from tests.fuzz.corpus import real_files, special_files
from tests.fuzz.decoding import Campaign
from tests.fuzz.targets import SEEDS, TARGETS

FOLDER = Path("build/fuzz")


def main() -> int:
    """Run everything and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz decoders, messages and model files.")
    parser.add_argument("--cases", type=int, default=120_000, help="how many inputs, over all targets")
    parser.add_argument("--seed", type=int, default=1, help="of the damage; the same seed gives the same files")
    args = parser.parse_args()
    num_guided = args.cases * 4 // 5 // len(TARGETS)
    is_good = fuzz_decoders(args.cases - num_guided * len(TARGETS), args.seed)
    for target in TARGETS:
        is_good &= fuzz_guided(target, num_guided, args.seed)
    print(f"{args.cases} cases: {'each a result or a documented error' if is_good else 'see above, and ' + str(FOLDER)}")
    return 0 if is_good else 1


def is_complete(target: str, num_run: int, num_asked: int) -> bool:
    """Return whether as many cases were run as were asked for; say so where not. More are none too many."""
    if num_run < num_asked:
        print(f"{target}: {num_run} cases were run, {num_asked} were asked for (--cases)")
    return num_run >= num_asked


def fuzz_decoders(num_cases: int, seed: int) -> bool:
    """Decode damaged files of every container, each as a file and as its stream: two cases."""
    nursery = Nursery()
    campaign = Campaign(nursery, FOLDER)
    try:
        with tempfile.TemporaryDirectory() as folder:
            files = real_files(Path(folder), 0.3)
        for name, data in special_files(files).items():
            campaign.try_file(name, data)
        num_special = campaign.num_cases
        campaign.run(files, num_cases, seed)
    finally:
        campaign.close()
        nursery.close()
    print("decoders:", ", ".join(f"{count} {outcome}" for outcome, count in campaign.outcomes.most_common()))
    for line in campaign.broken:
        print(line)
    return is_complete("decoders", campaign.num_cases - num_special, num_cases) and not campaign.broken


def fuzz_guided(target: str, num_runs: int, seed: int) -> bool:
    """Let atheris look for a way through a target."""
    corpus = FOLDER / "corpus" / target
    corpus.mkdir(parents=True, exist_ok=True)
    for index, content in enumerate(SEEDS[target]):
        (corpus / f"seed-{index}").write_bytes(content)
    command = [sys.executable, "-m", "tests.fuzz.guided", target, f"-runs={num_runs}", f"-seed={seed}", "-max_len=4096"]
    command += [
        f"-artifact_prefix={FOLDER}/{target}-",
        "-timeout=30",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        str(corpus),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    num_run = num_executed(done.stderr)
    print(f"{target}: {num_run} inputs{'' if done.returncode == 0 else ', one of which breaks it:'}")
    if done.returncode != 0:
        print(done.stdout[-3000:], done.stderr[-3000:], sep="\n")
        return False
    return is_complete(target, num_run, num_runs)


def num_executed(statistics: str) -> int:
    """Return how many inputs libFuzzer says at its end that it ran; 0 where it says nothing."""
    lines = (line.split() for line in statistics.splitlines())
    return next((int(words[1]) for words in lines if words[:1] == ["stat::number_of_executed_units:"]), 0)


if __name__ == "__main__":
    sys.exit(main())
