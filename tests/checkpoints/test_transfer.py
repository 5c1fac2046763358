"""HTTP at its worst, from a real server: what arrives is the whole, right file or nothing, and a later run succeeds."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from faulty_server import Behaviour
from fetching import CONTENT, IMPATIENT, NAME, OTHER, SHA256, assert_clean, get, published, refused, servers, unpublished

from pseudo_ris.checkpoints.manifest import HubFile

SECONDS = replace(IMPATIENT, stall_seconds=2.0)
MOMENT = replace(IMPATIENT, stall_seconds=0.3, attempts=5)  # on a busy machine our own server may be silent that long


@pytest.fixture
def serve(monkeypatch):
    """Starts servers that are stopped after the test."""
    with servers(monkeypatch) as start:
        yield start


def test_server_that_breaks_off_again_and_again_is_asked_for_the_rest_only(tmp_path, serve):
    server = serve(break_after=300_000)
    get(published(server.url), tmp_path)
    assert_clean(tmp_path)
    starts = [int(request.range[6:-1]) for request in server.requests[1:]]
    assert len(starts) >= 3 and starts == sorted(set(starts))
    assert all(request.if_range == '"1"' and request.status == 206 for request in server.requests[1:])


def test_server_that_breaks_off_without_a_new_byte_is_given_up_and_gone_on_with_later(tmp_path, serve):
    server = serve(lost_from=300_000)
    assert "breaks off in the middle, 2 times without a new byte" in refused(published(server.url), tmp_path)
    assert len(server.requests) == 1 + IMPATIENT.attempts
    server.behaviour.lost_from = None
    get(published(server.url), tmp_path)
    assert server.requests[-1].status == 206
    assert_clean(tmp_path)


def test_server_without_ranges_is_asked_from_the_beginning(tmp_path, serve):
    server = serve(ranges=False, break_after=300_000, answers=2)
    get(published(server.url), tmp_path)
    assert_clean(tmp_path)
    assert {request.status for request in server.requests} == {200}


def test_server_without_ranges_that_always_breaks_off_is_given_up(tmp_path, serve):
    server = serve(ranges=False, break_after=300_000)
    assert "without a new byte" in refused(published(server.url), tmp_path)
    assert len(server.requests) == 1 + IMPATIENT.attempts
    server.behaviour.break_after = None
    get(published(server.url), tmp_path)
    assert_clean(tmp_path)


def test_server_without_validators_is_asked_from_the_beginning(tmp_path, serve):
    server = serve(etag=None, break_after=300_000, answers=1)
    get(published(server.url), tmp_path)
    assert [request.range for request in server.requests] == [None, None]
    assert_clean(tmp_path)


def test_weak_validators_are_not_used(tmp_path, serve):
    server = serve(etag='W/"1"', break_after=300_000, answers=1)
    get(published(server.url), tmp_path)
    assert [request.range for request in server.requests] == [None, None]


def test_date_of_the_last_change_serves_where_there_is_no_strong_validator(tmp_path, serve):
    date = "Wed, 01 Feb 2023 10:00:00 GMT"
    server = serve(etag='W/"1"', modified=date, break_after=300_000, answers=1)
    get(published(server.url), tmp_path)
    assert server.requests[1].if_range == date and server.requests[1].status == 206
    assert_clean(tmp_path)


def test_file_that_changes_between_attempts_is_not_pieced_together(tmp_path, serve):
    server = serve(content=OTHER, lost_from=300_000)
    entry = unpublished(server.url)
    refused(entry, tmp_path)
    server.behaviour = Behaviour(CONTENT, etag='"2"')
    get(entry, tmp_path)
    assert server.requests[-1].range is not None and server.requests[-1].status == 200
    assert_clean(tmp_path, "checksums.json")


def test_answer_with_another_range_than_asked_for_is_not_appended(tmp_path, serve):
    server = serve(break_after=300_000, shift=7, answers=1)
    get(unpublished(server.url), tmp_path)
    assert_clean(tmp_path, "checksums.json")
    assert [request.status for request in server.requests] == [200, 206, 200]


def test_wrong_size_is_refused_before_it_is_downloaded(tmp_path, serve):
    server = serve(content=CONTENT + b"more")
    assert "has a file of 1000007 bytes instead of 1000003" in refused(published(server.url), tmp_path)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.slow
def test_slow_but_steady_server_is_waited_for(tmp_path, serve):
    server = serve(pause=0.3, piece=125_001)  # 2.4 s in all
    get(published(server.url), tmp_path, patience=SECONDS)
    assert_clean(tmp_path)
    assert len(server.requests) == 1


def test_silent_server_is_given_up_and_gone_on_with(tmp_path, serve):
    server = serve(stall_after=300_000, answers=1)
    get(published(server.url), tmp_path, patience=MOMENT)
    assert_clean(tmp_path)
    assert server.requests[1].status == 206


@pytest.mark.slow
def test_server_that_is_silent_from_the_start_is_one_line(tmp_path, serve):
    server = serve(stall_after=0)
    assert "sends nothing for 0.3 s" in refused(published(server.url), tmp_path, patience=MOMENT)
    server.behaviour.stall_after = None
    get(published(server.url), tmp_path)
    assert_clean(tmp_path)


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (500, 2), (503, 2), (429, 2)])
def test_refusals_are_one_line_and_repeated_only_where_that_may_help(tmp_path, serve, status, requests):
    server = serve(status=status)
    assert f"answers {status}" in refused(published(server.url), tmp_path)
    assert len(server.requests) == requests
    server.behaviour.status = 200
    get(published(server.url), tmp_path)
    assert_clean(tmp_path)


def test_passing_error_is_outlasted(tmp_path, serve):
    server = serve(status=503, answers=1)
    get(published(server.url), tmp_path)
    assert_clean(tmp_path)


def test_web_page_is_not_taken_for_the_file(tmp_path, serve):
    server = serve(content=b"<html>log in</html>", content_type="text/html; charset=utf-8")
    assert "web page" in refused(unpublished(server.url), tmp_path)
    server.behaviour = Behaviour(CONTENT)
    get(unpublished(server.url), tmp_path)
    assert_clean(tmp_path, "checksums.json")


def test_redirects_are_followed_also_when_going_on(tmp_path, serve):
    server = serve(break_after=300_000, answers=1)
    server.behaviour.location = f"{server.root}/moved/{NAME}"
    server.behaviour.answers = 2  # the redirect is a request too
    get(published(server.url), tmp_path)
    assert_clean(tmp_path)
    assert [request.status for request in server.requests] == [302, 200, 302, 206]


def test_body_of_unknown_length_needs_a_published_size(tmp_path, serve):
    server = serve(length=False, lost_from=300_000)
    assert "does not say how long" in refused(unpublished(server.url), tmp_path)
    assert "broke off after 300000 of 1000003 bytes" in refused(published(server.url), tmp_path)
    server.behaviour.lost_from = None
    get(published(server.url), tmp_path)
    assert_clean(tmp_path)


def test_next_source_is_taken_when_one_fails(tmp_path, serve):
    broken, wrong, good = serve(status=404), serve(content=OTHER), serve()
    get(published(broken.url, wrong.url, good.url), tmp_path)
    assert_clean(tmp_path)


def test_error_gives_the_reason_of_every_source_and_the_way_out(tmp_path, serve):
    broken, wrong = serve(status=404), serve(content=OTHER)
    closed = "http://127.0.0.1:9/weights.pth"
    message = refused(published(broken.url, wrong.url, closed), tmp_path)
    for expected in (f"{broken.url}: answers 404", f"{wrong.url}: has the wrong content", f"{closed}: connection failed"):
        assert expected in message
    assert str(tmp_path / NAME) in message and "--from DIR" in message


def test_bytes_at_hand_outlive_a_source_that_refuses(tmp_path, serve):
    first, second = serve(status=404), serve(lost_from=300_000)
    refused(published(first.url, second.url), tmp_path)
    second.behaviour.lost_from = None
    get(published(first.url, second.url), tmp_path)
    assert second.requests[-1].status == 206 and len(first.requests) == 1
    assert_clean(tmp_path)


def test_bytes_of_one_source_are_not_continued_from_another(tmp_path, serve):
    first, second = serve(content=OTHER, lost_from=300_000), serve()
    entry = published(first.url, second.url, sha256=None)
    get(entry, tmp_path)
    assert [request.range for request in second.requests] == [None]
    assert_clean(tmp_path, "checksums.json")


def test_damaged_notes_on_unfinished_bytes_mean_starting_again(tmp_path, serve):
    server = serve()
    (tmp_path / f".{NAME}.part").write_bytes(OTHER[:500])
    (tmp_path / f".{NAME}.part.json").write_text('{"url": ')
    get(published(server.url), tmp_path)
    assert [request.range for request in server.requests] == [None]
    assert_clean(tmp_path)


def test_longer_rest_than_the_file_is_thrown_away(tmp_path, serve):
    server = serve()
    (tmp_path / f".{NAME}.part").write_bytes(OTHER + b"more")
    notes = {"url": server.url, "validator": '"1"', "total": len(OTHER)}
    (tmp_path / f".{NAME}.part.json").write_text(json.dumps(notes))
    get(published(server.url), tmp_path)
    assert [request.status for request in server.requests] == [416, 200]
    assert_clean(tmp_path)


def test_proxy_of_the_environment_is_used(tmp_path, serve, monkeypatch):
    server = serve()
    monkeypatch.setenv("http_proxy", server.root)
    get(published("http://weights.invalid/weights.pth"), tmp_path)
    assert server.requests[0].path == "http://weights.invalid/weights.pth"
    assert_clean(tmp_path)


def hub_entry(*patterns):
    return replace(unpublished(), hub=HubFile("owner/repo", patterns))


def hub_page(*names, sha256=SHA256):
    files = [{"rfilename": name, "size": len(CONTENT), "lfs": {"sha256": sha256}} for name in names]
    return {"/api/models/owner/repo?blobs=true": json.dumps({"siblings": [{"rfilename": "README.md"}, *files]}).encode()}


def test_hub_is_asked_for_a_name_that_is_not_known(tmp_path, serve, monkeypatch):
    server = serve(pages=hub_page("cc12m/epoch_1.pt", "cc3m/epoch_1.pt"))
    monkeypatch.setenv("HF_ENDPOINT", server.root)
    get(hub_entry("*epoch_1.pt", "*cc3m*.pt"), tmp_path)
    assert server.requests[-1].path == "/owner/repo/resolve/main/cc3m/epoch_1.pt"
    assert_clean(tmp_path, "checksums.json")


def test_hub_without_exactly_one_fitting_file_is_one_line_that_lists_them(tmp_path, serve, monkeypatch):
    server = serve(pages=hub_page("a.pt", "b.pt"))
    monkeypatch.setenv("HF_ENDPOINT", server.root)
    message = refused(hub_entry("*.pth", "*.pt"), tmp_path)
    assert "README.md, a.pt, b.pt" in message and "/owner/repo" in message


def test_checksum_that_the_hub_gives_is_held_to_at_the_first_download(tmp_path, serve, monkeypatch):
    server = serve(content=OTHER, pages=hub_page("a.pt"))
    monkeypatch.setenv("HF_ENDPOINT", server.root)
    assert "wrong content" in refused(hub_entry("*.pt"), tmp_path)


@pytest.mark.parametrize("answer", [b"not JSON", b'{"siblings": 3}', b"[]"])
def test_hub_that_answers_something_else_is_one_line(tmp_path, serve, monkeypatch, answer):
    server = serve(pages={"/api/models/owner/repo?blobs=true": answer})
    monkeypatch.setenv("HF_ENDPOINT", server.root)
    assert "does not list its files" in refused(hub_entry("*.pt"), tmp_path)
