"""What `make demo` runs: the example's evaluation, then the five models of the walk-through and their plots.

    python examples/email_phishing_analyzer/demo.py [--resume]

Without OPENAI_BASE_URL it starts the stand-in model server with models.yml, and stops it at the end. With
it, only your own model is run (MODEL names it, OPENAI_API_KEY is its key). The last line is the path of the
report.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NoReturn

import walkthrough

STAND_IN = [
    *(sys.executable, "-m", "millstream", "simulate", "llm"),
    *("--config", "examples/email_phishing_analyzer/models.yml", "--exit-with-parent"),
]
STOP_WITHIN_S = 10
MAIN_MODEL = "meta-llama-3.1-70b-instruct"
MAIN_FOLDER = walkthrough.OUTPUT / "main"
"""`output_dir` of config.yml."""


@contextmanager
def model_server() -> Iterator[str]:
    """The stand-in's base URL; it is stopped at the end, whatever happens."""
    server = subprocess.Popen(  # noqa: S603  # our own command
        STAND_IN, cwd=walkthrough.ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
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


def run_main(environ: Mapping[str, str], options: Sequence[str]) -> tuple[int, str]:
    """Run the main evaluation and show what it prints, but for its last line.

    Returns:
        Its exit code and its last line, the path of the report.
    """
    held = ""
    with walkthrough.running(walkthrough.eval_command(*options), environ) as process:
        for line in process.stdout or ():
            if held:
                print(held, flush=True)
            held = line.rstrip("\n")
    return process.returncode, held


def compare(environ: Mapping[str, str], options: Sequence[str]) -> None:
    """Evaluate the models of the walk-through, the main run being one of them, and draw the plots."""
    print("The models of the walk-through:", flush=True)
    folders = {}
    for model in walkthrough.MODELS:
        if model == environ["MODEL"]:
            folders[model] = MAIN_FOLDER
            print(f"{model:28}  is the run above", flush=True)
        else:
            folders[model] = walkthrough.folder_of(model)
            print(walkthrough.evaluate(model, environ, options), flush=True)
    for path in walkthrough.plot_all(folders):
        print(path)


def run(environ: Mapping[str, str], options: Sequence[str], *, stand_in: bool) -> int:
    """The main evaluation, then the comparison."""
    code, last_line = run_main(environ, options)
    if stand_in and code in (0, walkthrough.ITEMS_FAILED):
        compare(environ, options)
    if last_line:
        print(last_line)
    return code


def stop(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the example, then compare five models on it.")
    parser.add_argument("--resume", action="store_true", help="go on where an earlier demo was stopped")
    options = ["--resume"] if parser.parse_args().resume else []
    signal.signal(signal.SIGTERM, stop)  # so that the server is stopped then, too
    own_url, model = os.environ.get("OPENAI_BASE_URL"), os.environ.get("MODEL")
    try:
        if own_url:
            named = model or "the model of config.yml"
            print(f"OPENAI_BASE_URL is set: running {named} at {own_url}.", flush=True)
            print("The five stand-in models of the walk-through are left out.", flush=True)
            return run(os.environ, options, stand_in=False)
        if model and model not in walkthrough.MODELS:
            known = ", ".join(walkthrough.MODELS)
            print(f"MODEL={model} is none of the stand-in's models ({known}).", file=sys.stderr)
            print("Set OPENAI_BASE_URL for a model of your own.", file=sys.stderr)
            return 2
        with model_server() as url:
            print(f"Stand-in model server: {url} (set OPENAI_BASE_URL for a model of your own)", flush=True)
            stand_in = {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "not-needed", "MODEL": model or MAIN_MODEL}
            return run({**os.environ, **stand_in}, options, stand_in=True)
    except KeyboardInterrupt:
        print("Stopped. The same command with --resume goes on where it was.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
