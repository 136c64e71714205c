"""Five models compared: each is evaluated on the same e-mails, then four plots are drawn from the profiles.

    python examples/email_phishing_analyzer/walkthrough.py [--resume] [MODEL ...]

talks to OPENAI_BASE_URL, or to the stand-in started with models.yml on port 8765.
"""

import argparse
import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # files only, no window

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path("examples/email_phishing_analyzer/config.yml")
OUTPUT = Path(".tmp/eval/examples/email_phishing_analyzer")
MODELS = [
    "meta-llama-3.1-8b-instruct",
    "meta-llama-3.1-70b-instruct",
    "mixtral-8x22b-instruct",
    "phi-3-medium-4k-instruct",
    "phi-3-mini-4k-instruct",
]
SCORES = ["accuracy", "groundedness"]
ITEMS_FAILED = 3
"""Exit code of `millstream eval` when it finished but some items failed."""
_PR_SET_PDEATHSIG = 1


def folder_of(model: str) -> Path:
    """Where the files of one model go."""
    return OUTPUT / "test_models" / model.replace("/", "_")


def eval_command(*options: str) -> list[str]:
    """`millstream eval` on the example, run by this Python."""
    return [sys.executable, "-m", "millstream", "eval", "--config_file", str(CONFIG), *options]


@contextmanager
def running(command: Sequence[str], environ: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A command whose output is read here, and which never outlives this script."""
    process = subprocess.Popen(  # noqa: S603  # our own command
        command,
        cwd=ROOT,
        env=dict(environ),
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509  # no threads here
    )
    with process:
        try:
            yield process
        except KeyboardInterrupt:  # Ctrl-C reaches the command as well: it saves what is done, and stops
            process.wait()
            raise
        except BaseException:
            process.terminate()
            raise


def _end_with_parent() -> None:
    """Have the kernel stop this process when its parent is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def evaluate(model: str, environ: Mapping[str, str], options: Sequence[str] = ()) -> str:
    """Evaluate one model.

    Returns:
        One line with its figures.
    """
    command = eval_command(
        *options,
        "--json",
        *("--override", "llms.main.model_name", model),
        *("--override", "eval.general.output_dir", str(folder_of(model))),
    )
    with running(command, environ) as process:
        output, _ = process.communicate()
    if process.returncode not in (0, ITEMS_FAILED):
        raise SystemExit(process.returncode)
    return describe(model, json.loads(output)["summary"])


def describe(model: str, summary: Mapping[str, Any]) -> str:
    """The figures of one model in a line."""
    scores = {metric["name"]: metric["average"] for metric in summary["metrics"]}
    told = [f"{name} {'-' if scores[name] is None else format(scores[name], '.2f')}" for name in SCORES]
    runtime = f"runtime p50 {summary['runtime_p50_s']:.2f} s, p95 {summary['runtime_p95_s']:.2f} s"
    tokens = f"tokens {summary['input_tokens']} in, {summary['output_tokens']} out"
    return f"{model:28}  {', '.join(told)}, {runtime}, {tokens}, {len(summary['failures'])} failed"


def concatenated(folders: Mapping[str, Path]) -> Path:
    """The CSV files of all models in one."""
    tables = [pd.read_csv(ROOT / folder / "standardized_data_all.csv") for folder in folders.values()]
    path = OUTPUT / "standardized_data_all.csv"
    pd.concat(tables).to_csv(ROOT / path, index=False)
    return path


def scores_of(folders: Mapping[str, Path]) -> pd.DataFrame:
    """Average scores: columns llm_name, Metric, Score."""
    rows = []
    for model, folder in folders.items():
        for name in SCORES:
            output = json.loads((ROOT / folder / f"{name}_output.json").read_text(encoding="utf-8"))
            rows.append({"llm_name": model, "Metric": name, "Score": output["average_score"]})
    return pd.DataFrame(rows)


def save(name: str) -> Path:
    """Write the current figure."""
    path = OUTPUT / "plots" / f"{name}.png"
    (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
    plt.savefig(ROOT / path, bbox_inches="tight", dpi=100)
    plt.close()
    return path


def plot_tokens(df_llm_end: pd.DataFrame) -> Path:
    """Prompt tokens against completion tokens, one point for each model call."""
    plt.figure(figsize=(10, 6))
    sns.scatterplot(
        data=df_llm_end,
        x="prompt_tokens",
        y="completion_tokens",
        hue="llm_name",
        style="function_name",
        s=100,  # Marker size
    )
    plt.xlabel("Prompt Tokens", fontsize=12)
    plt.ylabel("Completion Tokens", fontsize=12)
    plt.title("Prompt Tokens vs Completion Tokens by LLM and Function", fontsize=14)
    plt.legend(title="LLM / Function", bbox_to_anchor=(1.05, 1), loc="upper left")
    plt.grid(visible=True)
    return save("token_scatter")


def plot_runtimes(df: pd.DataFrame) -> Path:
    """Seconds from an example's first model call to the end of its last, by model."""
    df["event_timestamp"] = pd.to_numeric(df["event_timestamp"])
    df_llm = df[df["event_type"].isin(["LLM_START", "LLM_END"])]
    df_runtime = (
        df_llm.groupby(["example_number", "llm_name"])
        .agg(start_time=("event_timestamp", "min"), end_time=("event_timestamp", "max"))
        .reset_index()
    )
    df_runtime["runtime_seconds"] = df_runtime["end_time"] - df_runtime["start_time"]

    plt.figure(figsize=(10, 6))
    sns.boxplot(data=df_runtime, x="llm_name", y="runtime_seconds")
    plt.yscale("log")
    plt.xlabel("LLM Model", fontsize=12)
    plt.ylabel("Runtime (log10 scale, seconds)", fontsize=12)
    plt.title("Example Runtime per LLM Model (Log Scale)", fontsize=14)
    plt.xticks(rotation=45)
    plt.grid(visible=True, which="both", linestyle="--", linewidth=0.5)
    return save("runtimes")


def plot_token_efficiency(df_llm_end: pd.DataFrame) -> Path:
    """Tokens of an example, by model."""
    df_tokens = (
        df_llm_end.groupby(["example_number", "llm_name"])
        .agg(
            total_prompt_tokens=("prompt_tokens", "sum"), total_completion_tokens=("completion_tokens", "sum")
        )
        .reset_index()
    )
    df_tokens_melted = df_tokens.melt(
        id_vars=["example_number", "llm_name"],
        value_vars=["total_prompt_tokens", "total_completion_tokens"],
        var_name="Token Type",
        value_name="Token Count",
    )
    plt.figure(figsize=(12, 6))
    sns.barplot(data=df_tokens_melted, x="llm_name", y="Token Count", hue="Token Type", errorbar=None)
    plt.yscale("log")
    plt.xlabel("LLM Model", fontsize=12)
    plt.ylabel("Total Token Count per Example (log10 scale)", fontsize=12)
    plt.title("Total Prompt and Completion Tokens per Example by LLM Model (Log Scale)", fontsize=14)
    plt.xticks(rotation=45)
    plt.legend(title="Token Type")
    plt.grid(axis="y", linestyle="--", linewidth=0.5, which="both")
    return save("token_efficiency")


def plot_scores(scores: pd.DataFrame) -> Path:
    """What the evaluators say, by model."""
    plt.figure(figsize=(12, 6))
    sns.barplot(data=scores, x="llm_name", y="Score", hue="Metric", errorbar=None)
    plt.ylim(0, 1)
    plt.xlabel("LLM Model", fontsize=12)
    plt.ylabel("Average score", fontsize=12)
    plt.title("Accuracy and Groundedness by LLM Model", fontsize=14)
    plt.xticks(rotation=45)
    plt.legend(title="Metric", bbox_to_anchor=(1.02, 1), loc="upper left")
    plt.grid(axis="y", linestyle="--", linewidth=0.5)
    return save("scores")


def plot_all(folders: Mapping[str, Path]) -> list[Path]:
    """Draw the four plots of the walk-through.

    Args:
        folders: what `millstream eval` wrote, by model.

    Returns:
        The PNG files.
    """
    df = pd.read_csv(ROOT / concatenated(folders))
    df_llm_end = df[df["event_type"] == "LLM_END"]
    return [
        plot_tokens(df_llm_end),
        plot_runtimes(df),
        plot_token_efficiency(df_llm_end),
        plot_scores(scores_of(folders)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluate several models and plot the comparison.")
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--resume", action="store_true", help="go on where an earlier run was stopped")
    arguments = parser.parse_args()
    for model in arguments.models:
        print(evaluate(model, os.environ, ["--resume"] if arguments.resume else []), flush=True)
    for path in plot_all({model: folder_of(model) for model in arguments.models}):
        print(path)


if __name__ == "__main__":
    main()
