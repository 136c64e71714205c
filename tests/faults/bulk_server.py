"""A search server that knows ids and nothing else, and fails in every way that one can fail.

    python -m tests.faults.bulk_server FOLDER [PORT]

prints its port. What it holds is in `FOLDER/created`, a line for every document that was created; how it
fails is read from `FOLDER/fault` with each bulk. So it may be killed at any moment and started again.
"""

import json
import os
import signal
import socket
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOREVER_S = 3600


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder, port):
        super().__init__(("127.0.0.1", port), Handler)
        self.folder = folder
        self.lock = threading.Lock()
        created = folder / "created"
        if created.exists():  # a line may be torn: its process was killed
            lines = created.read_text().splitlines(keepends=True)
            created.write_text("".join(line for line in lines if line.endswith("\n")))
        self.file = created.open("a")
        self.ids = set(created.read_text().split())
        self.times = 0

    def create(self, ids):
        """201 for each that is new, 409 for the others, as `create` does."""
        with self.lock:
            new = [one not in self.ids for one in ids]
            self.ids.update(ids)
            self.file.write("".join(f"{one}\n" for one, is_new in zip(ids, new, strict=True) if is_new))
            self.file.flush()
        return [201 if is_new else 409 for is_new in new]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def do_GET(self):
        self.answer(
            200, {"version": {"number": "9.0.0"}, "status": "green"}, {"x-elastic-product": "Elasticsearch"}
        )

    def do_PUT(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.answer(200, {"acknowledged": True})

    def do_POST(self):
        fault, _, argument = (self.server.folder / "fault").read_text().partition(" ")
        length = int(self.headers["content-length"])
        if fault == "reset":
            self.rfile.read(length // 2)
            return self.reset()
        lines = self.rfile.read(length).splitlines()[::2]
        ids = [json.loads(line)["create"]["_id"] for line in lines]
        self.server.times += 1
        if fault == "hang":
            time.sleep(FOREVER_S)
        elif fault == "status":
            headers = {"retry-after": "1"} if argument == "429" else {}
            return self.answer(int(argument), {"error": {"reason": "as you wish"}}, headers)
        elif fault == "slow":
            time.sleep(float(argument))
        elif fault == "stored, then reset":
            self.server.create(ids)
            return self.reset()
        elif fault == "dies":
            self.server.create(ids[: len(ids) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault == "items":
            return self.answer_some(ids)
        return self.answer_all(ids, self.server.create(ids))

    def answer_all(self, ids, statuses):
        items = [{"create": {"status": status}} for status in statuses]
        self.answer(200, {"errors": 409 in statuses, "items": items})

    def answer_some(self, ids):
        """Every third is too much now, and those of some spans are never taken."""
        items = []
        for number, one in enumerate(ids):
            if one.endswith("0"):
                error = {"type": "mapper_parsing_exception", "reason": "failed to parse field [x]"}
                items.append({"create": {"status": 400, "error": error}})
            elif (number + self.server.times) % 3 == 0:
                error = {"type": "es_rejected_execution_exception", "reason": "queue full"}
                items.append({"create": {"status": 429, "error": error}})
            else:
                items.append({"create": {"status": self.server.create([one])[0]}})
        self.answer(200, {"errors": True, "items": items})

    def answer(self, status, content, headers=()):
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**dict(headers), "content-length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, *arguments):
        pass


def main():
    folder = Path(sys.argv[1])
    server = Server(folder, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    print(server.server_port, flush=True)  # noqa: T201  # whoever started this reads it
    server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    main()
