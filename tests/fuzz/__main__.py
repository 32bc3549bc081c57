"""The long form of the fuzzing: `python -m tests.fuzz [--cases N] [--seed S]`, which is `make fuzz`.

One case in five is a damaged file for the decoder processes, as a file or as a stream; the others are guided by coverage
(atheris), each target in a process of its own. What breaks a promise is kept in `build/fuzz`, and the exit code says so.
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


def fuzz_decoders(num_cases: int, seed: int) -> bool:
    """Decode damaged files of every container."""
    nursery = Nursery()
    campaign = Campaign(nursery, FOLDER)
    try:
        with tempfile.TemporaryDirectory() as folder:
            files = real_files(Path(folder), 0.3)
        for name, data in special_files(files).items():
            campaign.try_file(name, data)
        campaign.run(files, num_cases, seed)
    finally:
        campaign.close()
        nursery.close()
    print("decoders:", ", ".join(f"{count} {outcome}" for outcome, count in campaign.outcomes.most_common()))
    for line in campaign.broken:
        print(line)
    return not campaign.broken


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
    executed = next((line.split()[-1] for line in done.stderr.splitlines() if "number_of_executed_units" in line), "0")
    print(f"{target}: {executed} inputs{'' if done.returncode == 0 else ', one of which breaks it:'}")
    if done.returncode != 0:
        print(done.stdout[-3000:], done.stderr[-3000:], sep="\n")
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
