"""Put SE into every kind of network there is, and write down what happened: docs/survey.md.

    make survey                     # an hour or two on 2 cores; goes on where it was
    python benchmarks/survey.py --only timm:resnet --fresh

Each network is built with random weights, SE is inserted, and everything that insertion promises is checked. One
result a file under runs/survey; a network that fails, hangs or runs out of memory is written down as that.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import traceback
from concurrent.futures.process import BrokenProcessPool
from fnmatch import fnmatch
from pathlib import Path

from networks import ENTRIES
from survey_checks import QUICK, check
from survey_page import RESULTS, page, result_of, verdict

PAGE = Path("docs/survey.md")
LIMIT_S = 1200


def one(name: str) -> dict:
    """In the worker: a result or, whatever happens, what went wrong."""
    try:
        return check(ENTRIES[name])
    except BaseException as error:
        return {"failed": f"{type(error).__name__}: {error}"[:600], "traceback": traceback.format_exc()[-2000:]}


def run(names: list[str]) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:40}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    pool = None
    with Progress(*columns) as progress:
        task = progress.add_task("", total=len(names))
        for name in names:
            progress.update(task, description=name)
            pool = pool or concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
            try:
                result = pool.submit(one, name).result(LIMIT_S)
            except (BrokenProcessPool, TimeoutError) as error:
                for process in list((pool._processes or {}).values()):
                    process.kill()
                pool.shutdown(wait=False, cancel_futures=True)
                pool = None
                short = f"took over {LIMIT_S} s" if isinstance(error, TimeoutError) else "the process died (memory?)"
                result = {"failed": short}
            path = result_of(name)
            path.write_text(json.dumps({"name": name, **result}, indent=1))
            progress.advance(task)
    if pool is not None:
        pool.shutdown()


def done(name: str, *, quick: bool) -> bool:
    """Whether there is a result, and one as full as is wanted."""
    if not result_of(name).exists():
        return False
    result = json.loads(result_of(name).read_text())
    return quick or "sites" not in result or "compile" in result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="*", help="pattern on the names, such as 'timm:*' or '*resnet*'")
    parser.add_argument("--fresh", action="store_true", help="do again what is done")
    parser.add_argument("--quick", action="store_true", help="leave out export and compile, to be done another time")
    parser.add_argument("--page", action="store_true", help="write the page from the results that are there")
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    names = [name for name in ENTRIES if fnmatch(name, f"*{options.only}*")]
    if options.quick:
        os.environ[QUICK] = "1"
    if not options.page:
        run([name for name in names if options.fresh or not done(name, quick=options.quick)])
    PAGE.write_text(page())
    for name in names:
        if result_of(name).exists() and (why := verdict(ENTRIES[name], json.loads(result_of(name).read_text()))):
            print(f"{name}: {why}")
    print(f"{PAGE} written")


if __name__ == "__main__":
    main()
