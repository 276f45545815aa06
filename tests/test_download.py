"""Downloads against servers on this machine that are slow, broken, wrong or not there."""

import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fbnet_lesson.classification.published import PRETRAINED, Pretrained
from fbnet_lesson.files import cache_dir
from fbnet_lesson.zoo.download import DownloadError, download
from fbnet_lesson.zoo.pretrained import pretrained_file

CONTENT = bytes(range(256)) * 2000  # half a megabyte
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves one file; its attributes say how badly, ``requests`` what it was asked for."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.content, self.etag = CONTENT, '"one"'
        self.status, self.type = 200, "application/octet-stream"
        self.cuts: list[int] = []  # end each of the next answers after so many bytes
        self.holds: list[int] = []  # in each of the next, stop there until the gate is opened
        self.gate = threading.Event()
        self.ranges, self.if_range, self.length = True, True, True
        self.longest_range = len(CONTENT)
        self.shift = 0  # answers with a range that begins so much later
        self.requests: list[tuple[str, str | None]] = []  # method, Range
        self.url = f"http://127.0.0.1:{self.server_address[1]}/model.pth"

    @property
    def ranges_asked(self) -> list[str | None]:
        return [asked for method, asked in self.requests if method == "GET"]

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):  # of a client that went away
            super().handle_error(request, client_address)


class Answer(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.requests.append((self.command, asked))
        if "/moved/" in self.path:
            self.send_response(302)
            self.send_header("Location", self.path.replace("/moved/", "/"))
            self.end_headers()
            return
        same = not server.if_range or self.headers.get("If-Range") == server.etag
        start, status = 0, server.status
        if asked and server.ranges and same and status == 200:
            start = int(asked.removeprefix("bytes=").removesuffix("-")) + server.shift
            status = 206
        body, total = server.content[start:], len(server.content)
        if status == 206:
            body = body[: server.longest_range]
            status = 206 if body else 416
        self.send_response(status)
        self.send_header("Content-Type", server.type)
        if server.etag:
            self.send_header("ETag", server.etag)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{total}")
        if server.length:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", "0" * 40)  # what a Hugging Face hub says
        self.end_headers()
        if self.command == "GET":
            self.send(body)

    def send(self, body: bytes):
        if self.server.holds:
            hold = self.server.holds.pop(0)
            self.wfile.write(body[:hold])
            body = body[hold:]
            self.server.gate.wait(20)
        cut = self.server.cuts.pop(0) if self.server.cuts else len(body)
        self.wfile.write(body[:cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path):
    """Where the file is to come to, in a folder that is not there yet."""
    return tmp_path / "cache" / "model.pth"


def part(path: Path) -> Path:
    return path.with_name(".model.pth.part")


def visible(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


# ----------------------------------------------------------------------- what comes, and from where


def test_a_file_is_fetched_once(server, path):
    assert download(server.url, path) == path
    assert path.read_bytes() == CONTENT
    assert download(server.url, path) == path
    assert server.ranges_asked == [None]


def test_nothing_but_the_file_and_the_lock_is_left(server, path):
    download(server.url, path)
    assert {p.name for p in path.parent.iterdir()} <= {"model.pth", ".model.pth.lock"}


def test_a_bar_shows_the_progress_on_a_terminal_only(server, path, capsys, monkeypatch):
    download(server.url, path)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    download(server.url, path.with_name("again.pth"))
    assert re.search(r"again\.pth: 100%.* 512k/512k", capsys.readouterr().err)


def test_a_redirection_is_followed(server, path):
    server.cuts = [100_000]
    download(server.url.replace("/model", "/moved/model"), path)
    assert path.read_bytes() == CONTENT
    assert server.ranges_asked == [None, None, "bytes=100000-", "bytes=100000-"]


@pytest.mark.parametrize("digits", [8, 64])
def test_a_published_checksum_or_its_beginning_is_checked(server, path, digits):
    assert download(server.url, path, SHA256[:digits]).read_bytes() == CONTENT


@pytest.mark.parametrize("sha256", ["", "c345b89", "C345B898", "not hexadecimal"])
def test_what_is_no_checksum_is_refused(path, sha256):
    with pytest.raises(ValueError, match="expected 8 to 64 lower-case hexadecimal digits"):
        download("http://127.0.0.1/", path, sha256)


def test_an_address_of_another_kind_is_refused(path):
    with pytest.raises(ValueError, match="expected an http or https address"):
        download("file:///etc/passwd", path)


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("FBNET_LESSON_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == Path("/home/me/.cache/fbnet_lesson")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_dir() == Path("/home/me/.cache/fbnet_lesson")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_dir() == Path("/xdg/fbnet_lesson")
    monkeypatch.setenv("FBNET_LESSON_CACHE", "~/ours")
    assert cache_dir() == Path("/home/me/ours")


# --------------------------------------------------------------------------- errors, in one message


def error_of(url: str, path: Path, *options, **named) -> str:
    """The message of a download that fails; it names the file, the address and the way by hand."""
    with pytest.raises(DownloadError) as info:
        download(url, path, *options, **named)
    message = str(info.value)
    assert message.startswith(f"cannot get model.pth from {url}: ") and "\n" not in message
    assert f"put it at {path}" in message
    assert "weights=PATH" in message and "load_weights(model, PATH)" in message
    return message


@pytest.mark.parametrize(
    "status, answer", [(404, "404 Not Found"), (500, "500 Internal Server Error"), (204, "204")]
)
def test_an_answer_without_the_file_is_named(server, path, status, answer):
    server.status = status
    assert f"the server answered {answer}" in error_of(server.url, path)
    assert visible(path.parent) == []


def test_no_server_is_an_error_at_once(path):
    with Server() as gone:
        pass  # its port is closed now
    start = time.monotonic()
    assert "no connection" in (message := error_of(gone.url, path)) and "refused" in message
    assert time.monotonic() - start < 5


def test_a_web_page_is_not_taken_for_the_file(server, path):
    server.type = "text/html; charset=utf-8"
    assert "the server sent a web page" in error_of(server.url, path)
    assert visible(path.parent) == []


def test_wrong_bytes_are_thrown_away(server, path):
    server.content = CONTENT[:-1] + b"x"
    message = error_of(server.url, path, SHA256)
    assert f"its sha256 is {hashlib.sha256(server.content).hexdigest()}" in message
    assert f"published is {SHA256}" in message
    assert visible(path.parent) == [] and not part(path).exists()
    server.content = CONTENT
    assert download(server.url, path, SHA256).read_bytes() == CONTENT
    assert server.ranges_asked == [None, None]


def test_a_file_without_length_and_checksum_could_be_half_and_is_refused(server, path):
    server.length = False
    assert "the server does not say how long it is" in error_of(server.url, path)
    assert download(server.url, path, SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize("below", ["a file", "a file/cache"])
def test_a_cache_that_cannot_be_written_is_named(server, tmp_path, below):
    (tmp_path / "a file").touch()
    path = tmp_path / below / "model.pth"
    message = error_of(server.url, path)
    assert f"cannot use {path.parent}" in message
    assert "FBNET_LESSON_CACHE names another cache" in message


def test_a_full_disk_is_no_broken_connection(server, path):
    limit, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        message = error_of(server.url, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    assert f"cannot use {path.parent}" in message and "File too large" in message
    assert server.ranges_asked == [None]


def test_a_file_in_a_cache_that_cannot_be_written_is_used(server, path):
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    assert download(server.url, path, SHA256) == path
    assert [p.name for p in path.parent.iterdir()] == ["model.pth"]  # not even a lock
    assert server.requests == []


# -------------------------------------------------------------------------------- broken downloads


def test_a_broken_download_goes_on_where_it_stopped(server, path):
    server.cuts = [100_000, 70_000]
    download(server.url, path)
    assert path.read_bytes() == CONTENT
    assert server.ranges_asked == [None, "bytes=100000-", "bytes=170000-"]


def test_the_next_call_goes_on_where_this_one_gave_up(server, path):
    server.cuts = [100_000, 0]
    assert f"broke after 100,000 of {len(CONTENT):,} bytes" in error_of(server.url, path)
    assert visible(path.parent) == []
    download(server.url, path, SHA256)
    assert path.read_bytes() == CONTENT
    assert server.ranges_asked == [None, "bytes=100000-", "bytes=100000-"]


def test_what_came_outlives_an_error_of_the_server(server, path):
    server.cuts = [100_000, 0]
    error_of(server.url, path)
    server.status = 503
    assert "503 Service Unavailable" in error_of(server.url, path)
    server.status = 200
    assert download(server.url, path).read_bytes() == CONTENT
    assert server.ranges_asked[-1] == "bytes=100000-"


def test_attempts_that_bring_little_come_to_an_end(server, path):
    server.cuts = [1000] * 100
    assert "broke after 5,000 of" in error_of(server.url, path)
    assert len(server.requests) == 5


def test_a_silent_server_is_left_after_the_time_out(server, path):
    server.holds = [100_000, 0]
    start = time.monotonic()
    message = error_of(server.url, path, timeout=0.8)
    assert time.monotonic() - start < 5
    assert f"broke after 100,000 of {len(CONTENT):,} bytes: timed out" in message
    assert part(path).stat().st_size == 100_000


def test_a_server_without_ranges_sends_the_whole_again(server, path):
    server.cuts, server.ranges = [100_000], False
    download(server.url, path)
    assert path.read_bytes() == CONTENT
    assert server.ranges_asked == [None, "bytes=100000-"]


@pytest.mark.parametrize("if_range", [True, False])  # a server may not know If-Range
@pytest.mark.parametrize("size", [len(CONTENT), 1000])  # 1000: nothing is left after our part
def test_a_file_that_changed_meanwhile_is_begun_anew(server, path, if_range, size):
    server.cuts = [100_000, 0]
    error_of(server.url, path)
    server.content, server.etag, server.if_range = CONTENT[::-1][:size], '"two"', if_range
    assert download(server.url, path).read_bytes() == server.content


@pytest.mark.parametrize("etag", ["", 'W/"one"'])
def test_without_a_name_for_its_version_a_file_is_begun_anew(server, path, etag):
    server.cuts, server.etag, server.if_range = [100_000, 50_000], etag, False
    error_of(server.url, path)
    server.content = CONTENT[::-1]
    assert download(server.url, path).read_bytes() == server.content
    assert server.ranges_asked == [None] * 3


def test_a_piece_of_the_range_is_not_taken_for_all_of_it(server, path):
    server.cuts, server.longest_range = [100_000], 300_000
    assert download(server.url, path).read_bytes() == CONTENT
    assert server.ranges_asked == [None, "bytes=100000-", "bytes=400000-"]


def test_another_range_than_the_one_asked_for_is_not_appended(server, path):
    server.cuts, server.shift = [100_000], 10
    assert download(server.url, path).read_bytes() == CONTENT
    assert server.ranges_asked == [None, "bytes=100000-", None]


def test_a_part_that_is_already_complete_is_no_dead_end(server, path):
    server.cuts = [100_000, 0]
    error_of(server.url, path)
    part(path).write_bytes(CONTENT)
    assert download(server.url, path).read_bytes() == CONTENT


def test_a_damaged_file_is_fetched_anew(server, path):
    path.parent.mkdir()
    path.write_bytes(CONTENT[:-1])
    assert download(server.url, path, SHA256).read_bytes() == CONTENT


def test_a_damaged_file_without_a_server_is_named_and_kept(server, path):
    path.parent.mkdir()
    path.write_bytes(b"the only copy")
    server.status = 404
    assert f"the file at {path} is not the published one" in error_of(server.url, path, SHA256)
    assert path.read_bytes() == b"the only copy"


# --------------------------------------------------------------------------------- many processes

DOWNLOAD = "import sys; from pathlib import Path; from fbnet_lesson.zoo.download import download; "
DOWNLOAD += "download(sys.argv[1], Path(sys.argv[2]))"


def start_download(server: Server, path: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", DOWNLOAD, server.url, str(path)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_two_processes_share_one_download(server, path):
    server.holds = [100_000]
    first = start_download(server, path)
    wait_until(lambda: server.requests)
    second = start_download(server, path)
    said = second.stderr.readline()
    assert said == "waiting for another process that downloads model.pth\n"
    server.gate.set()
    for process in (first, second):
        assert process.communicate(timeout=20)[1] == "" and process.returncode == 0
    assert path.read_bytes() == CONTENT
    assert server.ranges_asked == [None]


def test_after_kill_9_the_next_process_goes_on(server, path):
    server.holds = [100_000]
    process = start_download(server, path)
    wait_until(lambda: part(path).exists() and part(path).stat().st_size == 100_000)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert visible(path.parent) == []
    assert download(server.url, path, SHA256).read_bytes() == CONTENT
    assert server.ranges_asked == [None, "bytes=100000-"]


# --------------------------------------------------------------------------- the published weights


def test_every_published_file_has_an_address_of_its_own():
    assert len({weights.url for weights in PRETRAINED.values()}) == len(PRETRAINED) == 24
    for name, weights in PRETRAINED.items():
        upstream = name.partition("/")[2]
        assert weights.url.startswith("https://") and f"/{upstream}" in weights.url


def test_timms_addresses_and_checksums_are_those_of_the_installed_timm():
    from timm.models import get_pretrained_cfg

    for name in ("fbnetc_100", "fbnetv3_b", "fbnetv3_d", "fbnetv3_g"):
        weights, cfg = PRETRAINED[f"timm/{name}"], get_pretrained_cfg(name)
        assert (weights.url, weights.hub) == (cfg.url, cfg.hf_hub_id)
        assert weights.sha256 == re.search(r"-([0-9a-f]{8})\.pth$", cfg.url)[1]


def test_mobile_cvs_file_is_kept_under_a_name_that_tells_it_apart(server, tmp_path, monkeypatch):
    monkeypatch.setenv("FBNET_LESSON_CACHE", str(tmp_path))
    name, url = "mobile_cv/dmasking_l3", PRETRAINED["mobile_cv/dmasking_l3"].url
    assert url.endswith("/dmasking_l3_f156819299/model.pth")
    base = server.url.removesuffix("/model.pth")
    here = Pretrained(f"{base}/dmasking_l3_f156819299/model.pth", 288, 336)
    monkeypatch.setitem(PRETRAINED, name, here)
    file = pretrained_file(name)
    assert file == tmp_path / "mobile_cv" / "dmasking_l3_f156819299.pth"
    assert file.read_bytes() == CONTENT


def test_without_huggingface_hub_timms_release_is_taken_and_checked(server, tmp_path, monkeypatch):
    monkeypatch.setenv("FBNET_LESSON_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as if it were not installed
    url = server.url.replace("model.pth", "fbnetc_100-c345b898.pth")
    here = Pretrained(url, 224, 256, sha256="c345b898", hub="timm/fbnetc_100.rmsp_in1k")
    monkeypatch.setitem(PRETRAINED, "timm/fbnetc_100", here)
    with pytest.raises(DownloadError, match="published is c345b898"):
        pretrained_file("timm/fbnetc_100")
    here = Pretrained(url, 224, 256, sha256=SHA256[:8], hub="timm/fbnetc_100.rmsp_in1k")
    monkeypatch.setitem(PRETRAINED, "timm/fbnetc_100", here)
    assert pretrained_file("timm/fbnetc_100") == tmp_path / "timm" / "fbnetc_100-c345b898.pth"


def test_a_network_without_published_weights_is_named_with_those_that_have_some():
    with pytest.raises(ValueError, match="'timm/resnet50'; there are mobile_cv/fbnet_a, "):
        pretrained_file("timm/resnet50")


# ---------------------------------------------------------- the Hugging Face hub, imitated locally

ASK = """
import json, sys
from fbnet_lesson.zoo.pretrained import pretrained_file
try:
    print(json.dumps({"file": str(pretrained_file("timm/fbnetc_100"))}))
except Exception as error:
    print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""


@pytest.fixture
def hub(server, tmp_path):
    """A function that gets timm's weights in a new process: HF_ENDPOINT is read at the import."""
    server.etag = f'"{SHA256}"'  # the hub names large files by their SHA-256

    def ask(**environment) -> dict[str, str]:
        named = {
            "HF_ENDPOINT": server.url.removesuffix("/model.pth"),
            "HF_HOME": str(tmp_path / "hub"),
            "FBNET_LESSON_CACHE": str(tmp_path / "ours"),
        }
        command = [sys.executable, "-c", ASK]
        result = subprocess.run(
            command, env=os.environ | named | environment, capture_output=True, text=True
        )
        return json.loads(result.stdout.splitlines()[-1])

    ask.server, ask.folder = server, tmp_path
    return ask


def test_timms_weights_come_from_the_hub_once(hub):
    file = Path(hub()["file"])
    assert file.name == "model.safetensors" and file.read_bytes() == CONTENT
    assert file.is_relative_to(hub.folder / "hub")
    asked = len(hub.server.requests)
    assert Path(hub()["file"]) == file
    assert len(hub.server.requests) == asked


def test_a_damaged_file_in_the_hubs_cache_is_fetched_anew(hub):
    file = Path(hub()["file"])
    file.resolve().write_bytes(b"damaged")
    assert Path(hub()["file"]).read_bytes() == CONTENT


def test_wrong_bytes_from_the_hub_are_an_error(hub):
    hub.server.content = CONTENT[::-1]
    assert "its sha256 is not the published one" in hub()["message"]
    hub.server.content = CONTENT
    assert Path(hub()["file"]).read_bytes() == CONTENT


def test_a_file_put_by_hand_comes_before_the_hub(hub):
    file = hub.folder / "ours" / "timm" / "fbnetc_100.rmsp_in1k.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"by hand")
    assert Path(hub()["file"]) == file
    assert hub.server.requests == []


def test_a_hub_that_cannot_help_is_named_with_the_way_by_hand(hub):
    hub.server.status = 404
    by_hand = hub.folder / "ours" / "timm" / "fbnetc_100.rmsp_in1k.safetensors"
    for reason, environment in (
        ("404", {}),
        ("refused", {"HF_ENDPOINT": "http://127.0.0.1:9"}),
        ("HF_HUB_OFFLINE", {"HF_HUB_OFFLINE": "1"}),
    ):
        start = time.monotonic()
        result = hub(**environment)
        assert result["error"] == "DownloadError" and "\n" not in result["message"]
        assert reason in result["message"] and f"put it at {by_hand}" in result["message"]
        assert "/timm/fbnetc_100.rmsp_in1k/resolve/main/model.safetensors" in result["message"]
        assert time.monotonic() - start < 15  # hf_hub_download alone tries for longer
