"""What `make demo-web-query` runs: the example's evaluation, its four evaluators and the profiler.

    python examples/simple_web_query/demo.py [--resume]

Without OPENAI_BASE_URL it starts the stand-in model server with models.yml, and stops it at the end. With
it, your own models are asked (MODEL, JUDGE_MODEL and EMBEDDING_MODEL name them, OPENAI_API_KEY is the key).
The last line is the path of the report.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = "examples/simple_web_query"
MILLSTREAM = [sys.executable, "-m", "millstream"]
STAND_IN = [*MILLSTREAM, "simulate", "llm", "--config", f"{EXAMPLE}/models.yml", "--exit-with-parent"]
EVAL = [*MILLSTREAM, "eval", "--config_file", f"{EXAMPLE}/config.yml"]
STOP_WITHIN_S = 10


@contextmanager
def model_server() -> Iterator[str]:
    """The stand-in's base URL; it is stopped at the end, whatever happens."""
    server = subprocess.Popen(  # noqa: S603  # our own command
        STAND_IN, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    with server:
        try:
            url = server.stdout.readline().strip() if server.stdout else ""
            if not url:
                raise SystemExit(server.wait())
            yield url
        finally:
            server.terminate()
            try:
                server.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                server.kill()


def evaluate(options: list[str], **environ: str) -> int:
    """Run the evaluation; Ctrl-C and SIGTERM reach it, and it saves what is done.

    Returns:
        Its exit code.
    """
    process = subprocess.Popen(  # noqa: S603  # our own command
        [*EVAL, *options], cwd=ROOT, env={**os.environ, **environ}
    )
    with process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            return process.wait()
        except BaseException:
            process.terminate()
            raise


def stop(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)


def main() -> int:
    parser = argparse.ArgumentParser(description="Evaluate the agent that reads web pages.")
    parser.add_argument("--resume", action="store_true", help="go on where an earlier demo was stopped")
    options = ["--resume"] if parser.parse_args().resume else []
    signal.signal(signal.SIGTERM, stop)  # so that the server is stopped then, too
    own_url = os.environ.get("OPENAI_BASE_URL")
    if own_url:
        print(f"OPENAI_BASE_URL is set: asking the models at {own_url}.", flush=True)
        return evaluate(options)
    with model_server() as url:
        print(f"Stand-in model server: {url} (set OPENAI_BASE_URL for models of your own)", flush=True)
        return evaluate(options, OPENAI_BASE_URL=url, OPENAI_API_KEY="not-needed")


if __name__ == "__main__":
    sys.exit(main())
