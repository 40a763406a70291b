import multiprocessing
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from senet.data.decoding import decode_bytes
from senet.data.quiet import without_warnings
from tests.data.realfolder import odd_pictures


def test_nothing_is_warned_of_within_whoever_leaves_first_and_all_is_as_before_behind():
    before = list(warnings.filters)
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))

    def first():
        with without_warnings():
            first_is_in.set()
            assert second_is_in.wait(60)
        first_is_out.set()

    def second():
        assert first_is_in.wait(60)
        with without_warnings():
            second_is_in.set()
            assert first_is_out.wait(60)
            warnings.warn("of a picture", UserWarning, stacklevel=1)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(first), pool.submit(second)]:
            done.result()
    assert list(warnings.filters) == before
    with pytest.warns(UserWarning, match="after"):
        warnings.warn("after", UserWarning, stacklevel=1)


def test_a_picture_with_broken_exif_is_whole_in_many_threads_where_warnings_are_errors():
    content, before, interval = odd_pictures(0)["broken exif.jpg"], list(warnings.filters), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            images = list(pool.map(lambda _: decode_bytes(content, "broken exif.jpg"), range(400)))
    finally:
        sys.setswitchinterval(interval)
    assert {image.size for image in images} == {(24, 20)}
    assert list(warnings.filters) == before


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs processes that fork")
def test_a_process_forked_meanwhile_has_the_filters_as_before_and_waits_for_no_lock():
    before = list(warnings.filters)
    inside, done = threading.Event(), threading.Event()

    def another():
        with without_warnings():
            inside.set()
            assert done.wait(60)

    def child(pipe):
        with without_warnings():
            quiet = list(warnings.filters) != before
        pipe.send((quiet, list(map(str, warnings.filters)) == list(map(str, before))))

    with ThreadPoolExecutor(1) as pool:
        thread = pool.submit(another)
        assert inside.wait(60)
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        process = context.Process(target=child, args=(theirs,))
        process.start()
        assert ours.poll(60)
        assert ours.recv() == (True, True)
        process.join()
        done.set()
        thread.result()
    assert list(warnings.filters) == before
