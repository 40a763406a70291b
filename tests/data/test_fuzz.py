"""The decoder on mutated JPEG and PNG files: each is an image or one error, and none costs memory or the process."""

import json
import subprocess
import sys

import pytest

from senet.data.decoding import MOST_PIXELS, decode_bytes, to_mode
from senet.data.sources import open_data
from senet.data.unreadable import checked
from senet.errors import BadImageError
from senet.training.train import train
from tests.data.mutations import mutated, seeds

FEW, MANY = 600, 40_000


def outcomes(numbers):
    """Decode the mutants of these numbers: how many were images, and why the others were not."""
    whole = seeds()
    images, reasons = 0, {}
    for number in numbers:
        try:
            image = decode_bytes(mutated(number, whole), "mutant.jpg")
        except BadImageError as error:
            why = error.reason if error.lasting else f"passing: {error.reason}"
            reasons[why] = reasons.get(why, 0) + 1
        else:
            assert to_mode(image, "RGB").mode == "RGB"
            assert 0 < image.size[0] * image.size[1] <= MOST_PIXELS
            images += 1
    return images, reasons


def test_seeds_are_whole():
    assert all(to_mode(decode_bytes(content, "a.png"), "RGB").mode == "RGB" for content in seeds())


def test_some_mutants():
    images, reasons = outcomes(range(FEW))
    assert images > FEW / 10  # else the mutations would be too coarse to reach the decoder
    assert len(reasons) > 10
    assert not any(why.startswith("passing") or not why for why in reasons)
    assert outcomes(range(50)) == outcomes(range(50))


def test_a_folder_of_mutants_trains_through(tiny, tmp_path):
    whole = seeds()
    folder = tmp_path / "mutants"
    for number in range(200):
        name = ("a", "b")[number // 2 % 2]
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"{number:03}.png").write_bytes(mutated(number, whole))
    source = open_data(folder)
    good = checked(source, max_bad=1.0)
    assert len(good.train) + len(good.val) + len(good.bad) == 200
    options = {"epochs": 1, "batch_size": 16, "lr": 0.01, "size": 16, "devices": "cpu", "progress": False}
    result = train(tiny, folder, out=tmp_path / "run", max_bad="100%", range=[0, 65535], **options)
    assert result.skipped == good.bad


LONG = """
import ctypes, gc, json, os, sys
sys.path.insert(0, os.getcwd())
from tests.data.test_fuzz import outcomes

def resident():
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc keeps freed memory otherwise
        trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

count = int(sys.argv[1])
images, reasons, sizes = 0, {}, []
for start in range(0, count, count // 20):
    found, why = outcomes(range(start, start + count // 20))
    images += found
    for reason, times in why.items():
        reasons[reason] = reasons.get(reason, 0) + times
    sizes.append(round(resident(), 1))
print(json.dumps({"images": images, "reasons": reasons, "MiB": sizes}))
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's memory from /proc")
def test_many_mutants_end_no_process_and_leak_no_memory():
    done = subprocess.run([sys.executable, "-c", LONG, str(MANY)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    print(f"\n{MANY} mutants: {told['images']} images, {sum(told['reasons'].values())} refused")
    print("resident memory after each twentieth, MiB:", told["MiB"])
    for reason, times in sorted(told["reasons"].items(), key=lambda item: -item[1])[:12]:
        print(f"  {times:6} {reason}")
    assert told["images"] + sum(told["reasons"].values()) == MANY
    early, late = told["MiB"][4:8], told["MiB"][-4:]
    assert sum(late) / 4 - sum(early) / 4 < 2  # 24,000 files lie between: a leak of 100 bytes a file would be 2.3
