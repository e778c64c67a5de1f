"""As much of S3 as the tests need, in this process: objects, ranges, conditions, listings; faults on request."""

from __future__ import annotations

import hashlib
import threading
import time
import urllib.parse
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape

PAGE = 1000


class FakeS3:
    """A server on a port of its own; a context manager.

    Attributes:
        objects: bucket/key -> content.
        requests: method and bucket/key of each, in order.
        honours: conditions that are looked at: "If-Match", "If-None-Match".
        before: called with method and bucket/key before each request is answered; what it returns, if anything, is the
            status that is answered instead.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.honours = {"If-Match", "If-None-Match"}
        self.before: Callable[[str, str], int | None] = lambda method, key: None
        self.lock = threading.RLock()
        self._uploads: dict[str, dict[int, bytes]] = {}
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="fake-s3")

    def __enter__(self) -> FakeS3:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }

    def below(self, prefix: str) -> dict[str, bytes]:
        """Objects by their names below `bucket/prefix/`."""
        with self.lock:
            found = sorted(self.objects.items())
        return {key.removeprefix(f"{prefix}/"): data for key, data in found if key.startswith(f"{prefix}/")}

    def answer(self, method: str, key: str, query: dict[str, str], headers: dict[str, str], body: bytes) -> _Answer:
        self.requests.append((method, key))
        if (status := self.before(method, key)) is not None:
            return status, {}, b""
        with self.lock:
            if method in ("GET", "HEAD"):
                return self._list(key, query) if "list-type" in query else self._get(key, headers)
            if method == "PUT":
                return self._put(key, query, headers, body)
            if method == "DELETE":
                self.objects.pop(key, None)
                return 204, {}, b""
            if "delete" in query:
                return self._delete_several(key, body)
            return self._post(key, query)

    def _get(self, key: str, headers: dict[str, str]) -> _Answer:
        if key not in self.objects:
            return 404, {}, b"<Error><Code>NoSuchKey</Code></Error>"
        data = self.objects[key]
        told = {"ETag": _tag(data), "Last-Modified": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(0))}
        if headers.get("if-match", _tag(data)) != _tag(data) and "If-Match" in self.honours:
            return 412, {}, b"<Error><Code>PreconditionFailed</Code></Error>"
        if (wanted := headers.get("range")) is not None:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or len(data) - 1), len(data) - 1)
            told["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            return 206, told, data[start : end + 1]
        return 200, told, data

    def _put(self, key: str, query: dict[str, str], headers: dict[str, str], body: bytes) -> _Answer:
        if "partNumber" in query:
            self._uploads[query["uploadId"]][int(query["partNumber"])] = body
            return 200, {"ETag": _tag(body)}, b""
        there = self.objects.get(key)
        failed = b"<Error><Code>PreconditionFailed</Code></Error>"
        if headers.get("if-none-match") == "*" and there is not None and "If-None-Match" in self.honours:
            return 412, {}, failed
        if "if-match" in headers and "If-Match" in self.honours:
            if there is None:
                return 404, {}, b"<Error><Code>NoSuchKey</Code></Error>"
            if headers["if-match"] != _tag(there):
                return 412, {}, failed
        self.objects[key] = body
        return 200, {"ETag": _tag(body)}, b""

    def _post(self, key: str, query: dict[str, str]) -> _Answer:
        if "uploads" in query:
            name = str(len(self._uploads))
            self._uploads[name] = {}
            text = f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>"
            return 200, {}, text.encode()
        parts = self._uploads.pop(query["uploadId"])
        self.objects[key] = b"".join(parts[number] for number in sorted(parts))
        tag = escape(_tag(self.objects[key]))
        text = f"<CompleteMultipartUploadResult><ETag>{tag}</ETag></CompleteMultipartUploadResult>"
        return 200, {}, text.encode()

    def _delete_several(self, bucket: str, body: bytes) -> _Answer:
        import xml.etree.ElementTree as ElementTree

        keys = [str(one.text) for one in ElementTree.fromstring(body).iter() if one.tag.endswith("Key")]
        for key in keys:
            self.requests.append(("DELETE", f"{bucket.rstrip('/')}/{key}"))
            self.objects.pop(f"{bucket.rstrip('/')}/{key}", None)
        deleted = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        return 200, {}, f"<DeleteResult>{deleted}</DeleteResult>".encode()

    def _list(self, bucket: str, query: dict[str, str]) -> _Answer:
        bucket = bucket.rstrip("/")
        after = max(query.get("start-after", ""), query.get("continuation-token", ""))
        keys = sorted(key.removeprefix(f"{bucket}/") for key in self.objects if key.startswith(f"{bucket}/"))
        keys = [key for key in keys if key.startswith(query.get("prefix", "")) and key > after]
        page, more = keys[:PAGE], len(keys) > PAGE
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>1970-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>{escape(_tag(self.objects[f'{bucket}/{key}']))}</ETag>"
            f"<Size>{len(self.objects[f'{bucket}/{key}'])}</Size></Contents>"
            for key in page
        )
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        text = f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{contents}</ListBucketResult>"
        return 200, {}, text.encode()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Clients may be gone."""


_Answer = tuple[int, dict[str, str], bytes]


def _tag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


def _handler(server: FakeS3) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            path, _, query = self.path.partition("?")
            words = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            key = urllib.parse.unquote(path).removeprefix("/")
            status, told, data = server.answer(self.command, key, words, headers, body)
            self.send_response(status)
            for name, value in told.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815

        def log_message(self, format: str, *arguments: object) -> None:
            return

    return Handler
