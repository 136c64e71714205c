"""`millstream doctor`: what is installed and reachable."""

import os
import platform
import tempfile
import urllib.error
import urllib.request
from http.client import HTTPException, InvalidURL
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import click
import msgspec

from millstream import __version__
from millstream.record import journal_home
from millstream.record.integrations import available
from millstream.record.lane import COMPILED

_EXTRAS: Final = {
    "profiling": ("numpy", "scipy", "pillow", "pyarrow", "jinja2"),
    "langchain": ("langchain", "langgraph", "langchain-openai"),
    "web": ("starlette", "uvicorn"),
    "openai": ("openai",),
    "embeddings": ("numpy", "model2vec"),
    "sentence-transformers": ("sentence-transformers",),
}
_TIMEOUT_S: Final = 3


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at; `ok` is null for what is merely told."""

    what: str
    ok: bool | None
    detail: str


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(*, as_json: bool) -> int:
    """Say what is installed and reachable. Exit code 4 when something that is set up does not work."""
    findings = [_this(), _home(journal_home()), *map(_extra, _EXTRAS), _integrations(), _model_server()]
    if as_json:
        click.echo(msgspec.json.encode(findings))
    else:
        for finding in findings:
            mark = {True: "ok     ", False: "PROBLEM", None: "       "}[finding.ok]
            click.echo(f"{mark} {finding.what}: {finding.detail}")
    return 4 if any(finding.ok is False for finding in findings) else 0


def _this() -> Finding:
    return Finding(
        "millstream",
        ok=True,
        detail=f"{__version__}, Python {platform.python_version()} on {platform.system()}, recording "
        + (
            "compiled"
            if COMPILED
            else "in plain Python (built without a C compiler: the same, at twice the price)"
        ),
    )


def _home(home: Path) -> Finding:
    what = f"journal in {home}"
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        return Finding(
            what, ok=False, detail=f"{existing} cannot be written ({error.strerror}); set MILLSTREAM_HOME"
        )
    free_gb = os.statvfs(existing).f_bavail * os.statvfs(existing).f_frsize / 1e9
    if free_gb < 0.1:  # noqa: PLR2004  # a hundred megabytes are soon recorded
        return Finding(
            what, ok=False, detail=f"only {free_gb * 1000:.0f} MB free; set MILLSTREAM_HOME to a larger disk"
        )
    return Finding(what, ok=True, detail=f"can be written, {free_gb:,.0f} GB free")


def _extra(extra: str) -> Finding:
    found, missing = [], []
    for package in _EXTRAS[extra]:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    what = f"extra [{extra}]"
    if missing:
        return Finding(
            what, ok=None, detail=f"not installed ({', '.join(missing)}): pip install 'millstream[{extra}]'"
        )
    return Finding(what, ok=True, detail=", ".join(found))


def _integrations() -> Finding:
    return Finding("integrations", ok=None, detail=", ".join(available()) or "none")


def _model_server() -> Finding:
    base_url = os.environ.get("OPENAI_BASE_URL")
    if not base_url:
        return Finding("model server", ok=None, detail="OPENAI_BASE_URL is not set")
    what = f"model server {base_url}"
    if not base_url.startswith(("http://", "https://")):
        return Finding(what, ok=False, detail="OPENAI_BASE_URL must begin with http:// or https://")
    key = os.environ.get("OPENAI_API_KEY", "")
    if not (key.isascii() and key.isprintable() and key == key.strip()):  # without showing it
        return Finding(what, ok=False, detail="OPENAI_API_KEY holds a space, a line break or the like")
    url = f"{base_url.rstrip('/')}/models"
    try:
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            answer.read(1)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return Finding(what, ok=False, detail=f"answers {error.code}: check OPENAI_API_KEY")
        return Finding(what, ok=True, detail=f"answers ({error.code} to a list of models)")
    except (ValueError, InvalidURL) as error:
        return Finding(what, ok=False, detail=f"OPENAI_BASE_URL is not a URL ({error})")
    except HTTPException as error:
        return Finding(what, ok=False, detail=f"does not speak HTTP ({error!r}); change OPENAI_BASE_URL")
    except OSError as error:
        reason = getattr(error, "reason", error)
        return Finding(
            what, ok=False, detail=f"does not answer ({reason}); start it, or change OPENAI_BASE_URL"
        )
    return Finding(what, ok=True, detail="answers")
