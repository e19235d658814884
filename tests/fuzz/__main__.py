"""Runs the fuzzers in turn, each for as long as the others, in processes that may crash.

A worker says which case it begins; when it dies, or is at one for too long, that case is the finding. Findings are
written to `tests/fuzz/findings/`, whole, and named after the fuzzer and the seed.
"""

from __future__ import annotations

import argparse
import os
import queue
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from pathlib import Path

from mdsl.support.files import replacing
from tests.fuzz import FINDINGS, FUZZERS, fuzzer

PATIENCE = 120
"""Seconds of the processor that a case may take; of the clock ten times as many, for the machine may be busy."""
ROOT = Path(__file__).parents[2]
WORKER = [sys.executable, "-m", "tests.fuzz"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument(
        "--seed", type=int, default=int(time.time()) * 1000, help="the first one (default: the time)"
    )
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", choices=FUZZERS, action="append", help="this fuzzer")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    names = asked.only or list(FUZZERS)
    if asked.worker is not None:
        work(names, asked.seed + asked.worker, asked.jobs, asked.minutes)
        return 0
    return watch(names, asked.seed, asked.jobs, 60 * asked.minutes)


# -- a worker -------------------------------------------------------------------------------------------


def work(names: list[str], seed: int, stride: int, minutes: float) -> None:
    """Checks cases, that of the fuzzer which had the least time until then, and says what it does."""
    end = time.monotonic() + 60 * minutes
    spent = dict.fromkeys(names, 0.0)
    while (start := time.monotonic()) < end:
        name = min(spent, key=lambda name: spent[name])
        used = int(time.process_time())
        resource.setrlimit(resource.RLIMIT_CPU, (used + PATIENCE, resource.RLIM_INFINITY))
        say("begin", name, seed)
        data = fuzzer(name).make(seed)
        try:
            fuzzer(name).check(data)
        except Exception:
            keep(name, seed, data, traceback.format_exc())
            say("found", name, seed)
        else:
            say("done", name, seed)
        spent[name] += time.monotonic() - start
        seed += stride


def say(what: str, name: str, seed: int) -> None:
    print(what, name, seed, flush=True)


def keep(name: str, seed: int, data: bytes, why: str) -> None:
    """Writes a finding: the case, and what was wrong on standard error."""
    path = FINDINGS / f"{name}-{seed}.{fuzzer(name).SUFFIX}"
    FINDINGS.mkdir(exist_ok=True)
    with replacing(path) as file:
        file.write(data)
    print(f"{why}\nfinding: {path}", file=sys.stderr, flush=True)


# -- the watch ------------------------------------------------------------------------------------------


def watch(names: list[str], seed: int, jobs: int, seconds: float) -> int:
    print(f"fuzzing {', '.join(names)} from seed {seed} in {jobs} processes", flush=True)
    end = time.monotonic() + seconds
    counts = dict.fromkeys(names, 0)
    found: list[str] = []
    lock = threading.Lock()

    def run(worker: int) -> None:
        first = seed
        while (left := end - time.monotonic()) > 0:
            next_seed = watch_one(names, first, jobs, worker, left, counts, found, lock)
            first = next_seed - worker

    threads = [threading.Thread(target=run, args=(worker,)) for worker in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(", ".join(f"{name}: {count} cases" for name, count in counts.items()))
    print(f"{len(found)} findings{''.join(f'{chr(10)}  {case}' for case in found)}")
    return bool(found)


def watch_one(
    names: list[str], seed: int, jobs: int, worker: int, left: float, counts: dict[str, int], found: list[str],
    lock: threading.Lock,
) -> int:  # fmt: skip
    """Lets one worker work until it is done or dies; returns the seed from which another goes on."""
    only = [part for name in names for part in ("--only", name)]
    command = [*WORKER, *only, "--seed", str(seed), "--jobs", str(jobs)]
    command += ["--worker", str(worker), "--minutes", str(left / 60)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout
    lines: queue.Queue[str] = queue.Queue()
    reader = threading.Thread(target=_read, args=(process.stdout, lines))
    reader.start()
    name, at, last, slow = "", seed + worker, "", False
    while process.poll() is None or not lines.empty():
        try:
            line = lines.get(timeout=10 * PATIENCE)
        except queue.Empty:
            slow = True
            process.kill()
            break
        if not line:
            break
        last, name, number = line.split()
        at = int(number)
        with lock:
            if last == "done":
                counts[name] += 1
            elif last == "found":
                found.append(f"{name}, seed {at}")
    code = process.wait()
    reader.join()
    if last == "begin" and (slow or code):
        slow |= code == -signal.SIGXCPU
        why = f"takes more than {PATIENCE} s" if slow else f"the process ends with {_word(code)}"
        keep(name, at, fuzzer(name).make(at), why)
        with lock:
            found.append(f"{name}, seed {at}: {why}")
    elif code:
        raise SystemExit(f"a worker ended with {_word(code)} after seed {at}")
    return at + jobs


def _read(stream: Iterable[str], lines: queue.Queue[str]) -> None:
    """Puts each line into the queue, and an empty one at the end."""
    for line in stream:
        lines.put(line)
    lines.put("")


def _word(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else str(code)


if __name__ == "__main__":
    sys.exit(main())
