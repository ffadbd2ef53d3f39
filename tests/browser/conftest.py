"""A Chromium that is there, a JupyterLab and a Notebook 7 of its own. Without Chromium or Playwright all is skipped."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from browser_places import ROOT, SEEN

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


class Lab(NamedTuple):
    """A running Jupyter application: the address of a notebook in it."""

    url: str
    folder: Path


@pytest.fixture(scope="module")
def browser():
    """Of the module, not of the session: Playwright keeps an event loop running as long as it lives."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no Chromium here: none of {', '.join(NAMES)} is on the path")
    SEEN.mkdir(parents=True, exist_ok=True)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page that fails the test when a script in it does."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_default_timeout(10_000)
    yield page
    page.close()
    assert errors == []


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab with notebook 11, see `_served`."""
    yield from _served(tmp_path_factory.mktemp("lab"), "lab", "lab/tree")


@pytest.fixture(scope="module")
def notebook_7(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Jupyter Notebook 7 with notebook 11, see `_served`."""
    pytest.importorskip("notebook", reason="Jupyter Notebook 7 is not installed")
    yield from _served(tmp_path_factory.mktemp("notebook_7"), "notebook", "notebooks")


def _served(folder: Path, app: str, page: str) -> Iterator[Lab]:
    """A Jupyter application on a free port with notebook 11, at smoke scale, on the embedded digits."""
    notebook = json.loads((ROOT / "notebooks" / "11_latent_exploration.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"]).replace(
                'DATASET = "mnist"', 'DATASET = "mnist5k"'
            )  # there on every machine
            cell.update(source=source, outputs=[], execution_count=None)
    (folder / "work").mkdir()
    quiet = folder / "jupyterlab_settings_dir" / "@jupyterlab" / "apputils-extension"
    quiet.mkdir(parents=True)  # no question about news in front of a button
    (quiet / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    (folder / "work" / "11_latent_exploration.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    own = {name: str(folder / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR",
           "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")}  # fmt: skip
    environment = {**os.environ, **own, "LABUTILS_SCALE": "smoke", "LABUTILS_OUTPUTS": str(folder / "outputs")}
    options = ["--no-browser", "--allow-root", "--expose-app-in-browser", f"--ServerApp.port={port}",
               "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}",
               f"--ServerApp.root_dir={folder / 'work'}",
               "--LabApp.news_url=None"]  # fmt: skip
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "jupyter", app, *options]
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(address, token, server, folder / "log")
        yield Lab(f"{address}/{page}/11_latent_exploration.ipynb?token={token}", folder)
    finally:
        server.terminate()  # ends its kernels, too
        server.wait(30)


def _wait_for(address: str, token: str, server: subprocess.Popen, log: Path) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{address}/api/status?token={token}", timeout=1).close()
            return
        except OSError:
            if server.poll() is not None:
                break
            time.sleep(0.1)
    pytest.fail(f"Jupyter did not start:\n{log.read_text()[-3000:]}")
