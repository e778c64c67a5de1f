"""Who may come in, and what a browser can be made to do."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpu_extract.errors import DeviceError, InputError, UsageError
from gpu_extract.service import access
from gpu_extract.service.access import LOCAL, MOST_SESSIONS, Caller, Sessions, Tokens
from gpu_extract.service.connections import HEAD_SECONDS, Connections
from gpu_extract.service.uploads import Uploads

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from gpu_extract.service.serve import listen
from gpu_extract.service.web import guard
from tests.door import MiB, ask, door, served


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.toml"


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


# ---- tokens


def test_of_a_secret_only_its_digest_is_kept(path: Path) -> None:
    secret = Tokens.make(path, "anna", ["read", "submit"], jobs=20, bytes=10**12)
    text = path.read_text()
    assert secret not in text
    assert hashlib.sha256(secret.encode()).hexdigest() in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["tokens.toml"]
    caller = Tokens.load(path).who(secret)
    assert caller is not None
    assert caller == Caller("anna", frozenset(("read", "submit")), 20, 10**12)
    assert len(secret) >= 43


def test_what_is_in_the_file_stays(path: Path) -> None:
    first = Tokens.make(path, "anna", ["read"])
    path.write_text(f"# ours\n{path.read_text()}  # the last line")
    path.chmod(0o640)
    second = Tokens.make(path, "ben", ["admin"])
    assert path.read_text().startswith("# ours\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    tokens = Tokens.load(path)
    assert [caller and caller.name for caller in map(tokens.who, (first, second))] == ["anna", "ben"]


@pytest.mark.parametrize("secret", ["", "x", "é", "\udc80", "a" * 100_000, "\0"])
def test_no_other_secret_is_anybodys(path: Path, secret: str) -> None:
    made = Tokens.make(path, "anna", ["read"])
    tokens = Tokens.load(path)
    assert tokens.who(secret) is None
    assert tokens.who(f"{made} ") is None
    assert tokens.who(hashlib.sha256(made.encode()).hexdigest()) is None
    assert tokens.refused == 3


def test_every_digest_is_compared_wherever_the_right_one_stands(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = [Tokens.make(path, f"user{i}", ["read"]) for i in range(5)]
    tokens = Tokens.load(path)
    compared: list[int] = []

    def compare(a: str, b: str) -> bool:
        compared[-1] += 1
        return hmac.compare_digest(a, b)

    class Counted:
        compare_digest = staticmethod(compare)

    monkeypatch.setattr(access, "hmac", Counted)
    for secret in (*secrets, "nobody's"):
        compared.append(0)
        tokens.who(secret)
    assert compared == [5] * 6


def test_a_token_that_is_taken_out_is_dead_at_once(path: Path) -> None:
    anna, ben = Tokens.make(path, "anna", ["read"]), Tokens.make(path, "ben", ["read"])
    tokens = Tokens.load(path)
    sessions = Sessions(tokens)
    session = sessions.begin(anna)
    assert session is not None
    assert sessions.who(session) is not None
    blocks = path.read_text().split("\n\n")
    path.write_text(blocks[1])
    assert tokens.who(anna) is None
    assert sessions.who(session) is None
    assert tokens.who(ben) is not None
    path.unlink()
    assert tokens.who(ben) is None
    assert len(tokens) == 0


@pytest.mark.parametrize("text", ["", "# nobody\n", None])
def test_who_takes_out_the_last_token_lets_nobody_in(path: Path, text: str | None) -> None:
    tokens = Tokens.load(path, may_be_none=True)
    assert tokens.are_not_asked_for
    secret = Tokens.make(path, "anna", ["read"])
    assert not tokens.are_not_asked_for
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    assert not tokens.are_not_asked_for
    assert tokens.who(secret) is None


def test_a_change_of_the_same_length_is_seen(path: Path) -> None:
    secret = Tokens.make(path, "anna", ["read"])
    tokens = Tokens.load(path)
    status = path.stat()
    path.write_text(path.read_text().replace("anna", "emma"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    caller = tokens.who(secret)
    assert caller is not None
    assert caller.name == "emma"


ENTRY = '[[token]]\nname = "anna"\nsha256 = "' + "0" * 64 + '"\nscopes = ["read"]\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[token]", "not understood"),
        ("token = 3", "list of"),
        ("[token]\nname = 'x'", "list of"),
        ("[other]\n", "nothing beside"),
        (ENTRY.replace("anna", "../x"), "name must be"),
        (ENTRY.replace("anna", ""), "name must be"),
        (ENTRY.replace("0" * 64, "A" * 64), "sha256 must be"),
        (ENTRY.replace('["read"]', '["write"]'), "scopes must be"),
        (ENTRY.replace('["read"]', "[]"), "scopes must be"),
        (ENTRY.replace('["read"]', '[["read"]]'), "scopes must be"),
        (ENTRY + "jobs = true\n", "jobs must be"),
        (ENTRY + "bytes = -1\n", "bytes must be"),
        (ENTRY + "byte = 1\n", "byte is not known"),
        (ENTRY + ENTRY, "of token 2, its name"),
        (ENTRY + ENTRY.replace("anna", "ben"), "of token 2, its name or its sha256"),
        ("token = [3]", "there are no keys"),
    ],
)
def test_a_file_that_is_not_understood_lets_nobody_in(path: Path, text: str, said: str) -> None:
    secret = Tokens.make(path, "carl", ["read"])
    tokens = Tokens.load(path)
    good = path.read_text()
    path.write_text(text)
    for _ in range(2):
        with pytest.raises(InputError, match=said):
            tokens.who(secret)
    with pytest.raises(InputError, match=said):
        Tokens.load(path)
    with pytest.raises(InputError, match=said):
        Tokens.make(path, "dora", ["read"])
    assert path.read_text() == text
    path.write_text(good)
    assert tokens.who(secret) is not None


def test_bytes_that_are_no_text_and_what_is_no_file_are_refused(path: Path) -> None:
    path.write_bytes(b"\xff")
    with pytest.raises(InputError, match="UTF-8"):
        Tokens.load(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="named pipe"):
        Tokens.load(path)


@pytest.mark.parametrize(
    ("name", "scopes"), [("anna", []), ("anna", ["root"]), ('a"b', ["read"]), ("a\nb", ["read"]), ("x" * 65, ["read"])]
)
def test_a_token_that_makes_no_sense_is_not_made(path: Path, name: str, scopes: list[str]) -> None:
    with pytest.raises(UsageError, match="cannot be made"):
        Tokens.make(path, name, scopes)
    assert not path.exists()


def test_a_name_is_given_once(path: Path) -> None:
    Tokens.make(path, "anna", ["read"])
    before = path.read_bytes()
    with pytest.raises(UsageError, match="already"):
        Tokens.make(path, "anna", ["admin"])
    assert path.read_bytes() == before


def test_admin_may_all_and_the_local_caller_is_one(path: Path) -> None:
    caller = Tokens.load(path).who(Tokens.make(path, "anna", ["admin"]))
    for known in (caller, LOCAL):
        assert known is not None
        assert all(known.may(scope) for scope in ("read", "submit", "admin"))


# ---- sessions


def test_a_session_ends_when_it_was_quiet_for_long(path: Path) -> None:
    now = 0.0
    secret = Tokens.make(path, "anna", ["read"])
    sessions = Sessions(Tokens.load(path), seconds=10, clock=lambda: now)
    session = sessions.begin(secret)
    assert session is not None
    for quiet in (9.0, 9.0, 9.0):
        now += quiet
        assert sessions.who(session) is not None
    now += 11.0
    assert sessions.who(session) is None
    assert len(sessions) == 0


def test_a_token_has_so_many_sessions_and_takes_none_of_others(path: Path) -> None:
    anna, ben = Tokens.make(path, "anna", ["read"]), Tokens.make(path, "ben", ["read"])
    sessions = Sessions(Tokens.load(path))
    of_ben = sessions.begin(ben)
    ids = [sessions.begin(anna) for _ in range(3 * MOST_SESSIONS)]
    assert len(sessions) == MOST_SESSIONS + 1
    known = [session is not None and sessions.who(session) is not None for session in (*ids, of_ben)]
    assert known == [False] * 2 * MOST_SESSIONS + [True] * (MOST_SESSIONS + 1)
    assert sessions.begin("nobody's") is None


# ---- the guard


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "REFUSAL_SECONDS", 0.0)


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(tmp_path / "uploads", reserve_bytes=0, most_bytes=MiB)


@pytest.fixture
def secrets(path: Path) -> dict[str, str]:
    return {name: Tokens.make(path, name, [name]) for name in ("read", "submit", "admin")}


@pytest.fixture
def port(uploads: Uploads, secrets: dict[str, str], path: Path) -> Iterator[int]:
    with served(door(uploads, Tokens.load(path), names=("faces.example", "*.below.example"))) as port:
        yield port


@pytest.fixture
def open_port(uploads: Uploads) -> Iterator[int]:
    with served(door(uploads)) as port:
        yield port


JSON = {"Content-Type": "application/json"}


def test_without_a_token_there_is_health_the_page_and_nothing_else(port: int) -> None:
    assert ask(port, "GET", "/v1/healthz").status == 200
    assert ask(port, "GET", "/").status == 200
    for path in ("/v1/read", "/v1/unguarded", "/v1/uploads", "/v1/session", "/v1/no-such-thing", "/v1/%75nguarded"):
        answer = ask(port, "GET", path)
        assert answer.status == 401, path
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert "token" in answer.detail


def test_a_scope_that_is_missing_is_named(port: int, secrets: dict[str, str]) -> None:
    assert ask(port, "GET", "/v1/read", bearer(secrets["read"])).json == "read"
    assert ask(port, "GET", "/v1/read", bearer(secrets["admin"])).json == "admin"
    answer = ask(port, "GET", "/v1/read", bearer(secrets["submit"]))
    assert (answer.status, answer.detail) == (403, "The token of submit is good for submit; this needs read.")


@pytest.mark.parametrize(
    "said", ["Bearer wrong", "Bearer", "bearer ", "Basic eA==", "Bearer \xff", "Bearer " + "x" * 9999]
)
def test_wrong_tokens_are_refused(port: int, said: str) -> None:
    assert ask(port, "GET", "/v1/read", {"Authorization": said}).status == 401


def test_a_wrong_token_waits_and_nobody_with_it(
    port: int, secrets: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "REFUSAL_SECONDS", 1.0)
    with socket.create_connection(("127.0.0.1", port)) as wrong:
        begin = time.monotonic()
        wrong.sendall(b"GET /v1/read HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer wrong\r\n\r\n")
        assert ask(port, "GET", "/v1/read", bearer(secrets["read"])).status == 200
        assert time.monotonic() - begin < 0.9
        assert wrong.recv(100).startswith(b"HTTP/1.1 401")
        assert time.monotonic() - begin >= 0.9


@pytest.mark.parametrize("where", ["/v1/healthz", "/"])
def test_a_service_whose_tokens_cannot_be_read_lives(
    port: int, secrets: dict[str, str], path: Path, where: str
) -> None:
    path.write_text("[[token")
    assert ask(port, "GET", where).status == 200
    assert ask(port, "GET", where, bearer(secrets["admin"])).status == 200
    assert ask(port, "GET", "/v1/jobs", bearer(secrets["admin"])).status == 503


def test_tokens_that_cannot_be_read_are_an_answer(port: int, secrets: dict[str, str], path: Path) -> None:
    path.write_text("[[token]")
    answer = ask(port, "GET", "/v1/read", bearer(secrets["read"]))
    assert answer.status == 503
    assert str(path) not in answer.detail
    assert ask(port, "POST", "/v1/session", JSON, json.dumps({"token": "x"})).status == 503


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:80", 200),
        ("127.0.0.1:8080", 200),
        ("[::1]:8080", 200),
        ("localhost.", 200),
        ("faces.example", 200),
        ("a.b.below.example:1", 200),
        ("below.example", 421),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("evilbelow.example", 421),
        ("10.0.0.7", 421),
        ("0.0.0.0", 421),
        ("localhost@evil.example", 400),
        ("localhost:x", 400),
        ("", 400),
        ("*", 421),
        ("*.below.example", 200),
    ],
)
def test_the_server_answers_to_its_names(port: int, host: str, status: int) -> None:
    answer = ask(port, "GET", "/v1/healthz", {"Host": host})
    assert answer.status == status
    if status != 200:
        assert answer.detail


def test_bound_to_all_addresses_it_answers_to_any_and_to_no_foreign_name(uploads: Uploads) -> None:
    with served(door(uploads, bound="0.0.0.0")) as port:
        for host, status in (
            ("192.168.1.5:80", 200),
            ("[fe80::1]", 200),
            ("evil.example", 421),
            ("1.2.3.4.nip.io", 421),
        ):
            assert ask(port, "GET", "/v1/healthz", {"Host": host}).status == status
    with served(door(uploads, names=("*",))) as port:
        assert ask(port, "GET", "/v1/healthz", {"Host": "any.example"}).status == 200


def test_a_host_that_is_missing_or_said_twice_is_refused(port: int) -> None:
    for said in (b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(said)
            assert b" 400 " in connection.recv(100)


def begin_session(port: int, secret: str, **headers: str) -> str:
    answer = ask(port, "POST", "/v1/session", {**JSON, **headers}, json.dumps({"token": secret}))
    assert answer.status == 200
    cookie: str = answer.headers["Set-Cookie"]
    assert secret not in cookie
    return cookie


def test_a_token_becomes_a_cookie_that_scripts_and_other_sites_cannot_use(port: int, secrets: dict[str, str]) -> None:
    cookie = begin_session(port, secrets["submit"])
    pair, *attributes = [part.strip() for part in cookie.split(";")]
    assert {attribute.lower() for attribute in attributes} == {"httponly", "samesite=strict", "path=/"}
    assert pair.startswith(f"gpu-extract-session-{port}=")
    assert ask(port, "GET", "/v1/session", {"Cookie": pair}).json == {"name": "submit", "scopes": ["submit"]}
    ours = {"Cookie": pair, "Origin": f"http://127.0.0.1:{port}"}
    answer = ask(port, "PUT", "/v1/echo", {**JSON, **ours}, "{}")
    assert answer.json == {"caller": "submit", "keys": 0}
    assert ask(port, "DELETE", "/v1/session", {"Cookie": pair}).status == 403
    ended = ask(port, "DELETE", "/v1/session", ours)
    assert ended.status == 204
    assert "Max-Age=0" in ended.headers["Set-Cookie"]
    assert ask(port, "GET", "/v1/session", {"Cookie": pair}).status == 401


def test_the_cookie_of_a_page_behind_https_stays_there(port: int, secrets: dict[str, str]) -> None:
    origin = {"Host": "faces.example", "Origin": "https://faces.example"}
    cookie = begin_session(port, secrets["submit"], **origin)
    assert cookie.startswith("gpu-extract-session=")
    assert "; Secure" in cookie
    pair = cookie.partition(";")[0]
    assert ask(port, "PUT", "/v1/echo", {**JSON, **origin, "Cookie": pair}, "{}").status == 200


@pytest.mark.parametrize("body", ["{}", '{"token": 3}', "[]", "{", '{"token": "' + "x" * 300 + '"}'])
def test_what_is_no_token_makes_no_session(port: int, body: str) -> None:
    answer = ask(port, "POST", "/v1/session", JSON, body)
    assert answer.status == 422
    assert "Set-Cookie" not in answer.headers


def test_a_wrong_token_makes_no_session(port: int) -> None:
    answer = ask(port, "POST", "/v1/session", JSON, '{"token": "wrong"}')
    assert answer.status == 401
    assert "Set-Cookie" not in answer.headers


FOREIGN = [
    "http://evil.example",
    "null",
    "http://127.0.0.1",
    "http://127.0.0.1:1",
    "file://",
    "",
    "http://127.0.0.1:{}/",
]


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_foreign_page_writes_nothing_with_the_browsers_cookie(
    port: int, secrets: dict[str, str], origin: str
) -> None:
    pair = begin_session(port, secrets["admin"]).partition(";")[0]
    headers = {**JSON, "Cookie": pair, "Origin": origin.format(port)}
    for method, path in (("PUT", "/v1/echo"), ("POST", "/v1/uploads"), ("DELETE", "/v1/session")):
        answer = ask(port, method, path, headers, "{}")
        assert answer.status == 403
        assert "page" in answer.detail
    assert ask(port, "GET", "/v1/session", {"Cookie": pair}).status == 200


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_foreign_page_writes_nothing_where_nobody_is_asked(open_port: int, origin: str) -> None:
    headers = {**JSON, "Origin": origin.format(open_port)}
    assert ask(open_port, "PUT", "/v1/echo", headers, "{}").status == 403
    headers["Origin"] = f"http://127.0.0.1:{open_port}"
    assert ask(open_port, "PUT", "/v1/echo", headers, "{}").json == {"caller": "local", "keys": 0}
    assert ask(open_port, "PUT", "/v1/echo", JSON, "{}").status == 200
    assert ask(open_port, "POST", "/v1/session", JSON, '{"token": ""}').json["name"] == "local"


@pytest.mark.parametrize(
    "cookie", ["gpu-extract-session=x", "gpu-extract-session-{}=x", "=", ";;;", "\xff=\xff", "a" * 9000]
)
def test_cookies_that_are_no_session_are_a_strangers(port: int, cookie: str) -> None:
    assert ask(port, "GET", "/v1/session", {"Cookie": cookie.format(port)}).status == 401


def test_every_answer_says_what_a_browser_may_do_with_it(port: int, secrets: dict[str, str]) -> None:
    for path, headers in (
        ("/", {}),
        ("/v1/read", {}),
        ("/v1/read", bearer(secrets["read"])),
        ("/", {"Host": "evil.example"}),
    ):
        answer = ask(port, "GET", path, headers)
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'; img-src 'self' blob:;")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert (answer.headers["Cache-Control"] == "no-store") == (path != "/")
        assert "Access-Control-Allow-Origin" not in answer.headers


def chunked(size: int) -> Iterator[bytes]:
    yield b'{"x": "'
    for _ in range(0, size, 1 << 16):
        yield b"x" * (1 << 16)
    yield b'"}'


def test_a_body_of_a_mebibyte_is_taken_and_no_more(port: int, secrets: dict[str, str]) -> None:
    known = {**JSON, **bearer(secrets["submit"])}
    body = json.dumps({"x": "x" * (MiB - 9)})
    assert len(body) == MiB
    assert ask(port, "PUT", "/v1/echo", known, body).json["keys"] == 1
    for too_much in (body + " ", chunked(MiB), chunked(8 * MiB)):
        answer = ask(port, "PUT", "/v1/echo", known, too_much)
        assert answer.status == 413
        assert "1,048,576" in answer.detail
    assert ask(port, "PUT", "/v1/echo", known, chunked(MiB - (1 << 16))).json["keys"] == 1


def test_a_stranger_is_heard_for_less(port: int) -> None:
    for body in ("x" * 5000, chunked(1 << 16)):
        assert ask(port, "POST", "/v1/session", JSON, body).status == 413
    assert ask(port, "PUT", "/v1/echo", JSON, chunked(MiB)).status == 401


@pytest.mark.parametrize("length", ["9" * 30, "9" * 5000, "-1", "1e9", "٣"])
def test_a_length_that_is_none_is_refused(port: int, length: str) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = f"POST /v1/session HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
        connection.sendall(head.encode())
        assert b" 4" in connection.recv(100)[:12]


def test_a_body_that_does_not_come_ends(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"POST /v1/session HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{")
        assert b" 408 " in connection.recv(100)


def test_slow_clients_hold_nobody_else(port: int, secrets: dict[str, str]) -> None:
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
    try:
        for i, connection in enumerate(connections):
            head = b"POST /v1/session HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000\r\n\r\n{"
            connection.sendall(head if i % 2 else head[:30])
        begin = time.monotonic()
        assert ask(port, "GET", "/v1/read", bearer(secrets["read"])).status == 200
        assert time.monotonic() - begin < 5
    finally:
        for connection in connections:
            connection.close()


def test_a_route_without_a_guard_lets_nobody_in(uploads: Uploads) -> None:
    app: Any = door(uploads)
    app.user_middleware.clear()
    with served(app) as port:
        assert ask(port, "GET", "/v1/read").status == 500


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_no_packet_of_an_answer_waits_for_a_word_of_the_client(host: str) -> None:
    """asyncio switches that off for sockets that say that they are TCP's: 40 ms for each answer of two packets."""
    try:
        listening = listen(host, 0)
    except DeviceError:
        pytest.skip(f"this machine has no {host}")
    with listening:
        assert listening.proto == socket.IPPROTO_TCP


class Connection:
    """As uvicorn has them."""

    def __init__(self) -> None:
        self.cycle: Any = None

    def ask(self) -> None:
        self.cycle = SimpleNamespace(response_complete=False)


def test_connections_that_say_nothing_are_cut_off_and_answers_on_their_way_are_not() -> None:
    silent, asking, asked = Connection(), Connection(), Connection()
    asking.ask()
    asked.ask()
    asked.cycle.response_complete = True
    known = Connections(10)
    there = {silent, asking, asked}
    assert known.superfluous(there, 0.0) == []
    asked.ask()
    assert known.superfluous(there, HEAD_SECONDS) == []
    assert known.superfluous(there, HEAD_SECONDS + 1) == [silent]
    asked.cycle.response_complete = True
    there.remove(silent)
    assert known.superfluous(there, 2 * HEAD_SECONDS) == []
    assert known.superfluous(there, 3 * HEAD_SECONDS) == []
    assert known.superfluous(there, 3 * HEAD_SECONDS + 1) == [asked]


def test_of_too_many_connections_the_quiet_go_first_and_then_the_newest() -> None:
    known = Connections(3)
    busy = [Connection() for _ in range(3)]
    for one in busy:
        one.ask()
        assert known.superfluous(busy[: busy.index(one) + 1], 0.0) == []
    quiet = Connection()
    assert known.superfluous([quiet, *busy], 1.0) == [quiet]
    late = Connection()
    late.ask()
    assert known.superfluous([late, *busy], 2.0) == [late]
    busy[0].cycle.response_complete = True
    assert known.superfluous([late, *busy], 3.0) == [busy[0]]


def test_strangers_who_say_nothing_take_no_files_from_the_jobs(tmp_path: Path) -> None:
    """A few of the files that the process may have are enough for the door, however many come."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200)); "
    start = "from gpu_extract.__main__ import main; raise SystemExit(main())"
    words = ["serve", "--config", "", f"--data={tmp_path / 'data'}", "--port=0", "--devices=cpu"]
    log = tmp_path / "log"
    with open(log, "wb") as said:
        process = subprocess.Popen([sys.executable, "-c", limit + start, *words], stderr=said)
    strangers = []
    try:
        until = time.monotonic() + 30
        while not log.read_bytes().endswith(b"/\n"):
            assert time.monotonic() < until
            time.sleep(0.05)
        port = int(log.read_text().rpartition(":")[2].strip().rstrip("/"))
        for number in range(300):
            stranger = socket.create_connection(("127.0.0.1", port), timeout=10)
            strangers.append(stranger)
            stranger.sendall([b"", b"GET / HTTP/1.1\r\nHost: local"][number % 2])
        while len(list(Path(f"/proc/{process.pid}/fd").iterdir())) > 130:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert ask(port, "GET", "/healthz").status == 200
    finally:
        for stranger in strangers:
            stranger.close()
        process.terminate()
        code = process.wait(20)
    assert code == 0
