"""A real ComfyUI server in a folder of its own, driven over its HTTP API; standard library only."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from lab.folders import ROOT, expand_path

PACKS = {"symmetric-attention": ROOT}


class ServerError(RuntimeError):
    """The server did not start, or a prompt failed; the message carries what it said."""


class ComfyUIServer:
    """`with ComfyUIServer(path_of_comfyui) as server: server.run(prompt)`.

    The server works in a temporary folder that holds a link to this pack, so the user's own
    ComfyUI folder is read and never written.

    Args:
        comfyui: the folder of a ComfyUI.
        python: the interpreter that ComfyUI's requirements are installed for.
        arguments: further command line options.
        packs: name and folder of the custom node packs to link.
        patience: seconds to wait for the start and for each prompt.
    """

    def __init__(
        self,
        comfyui: Path,
        python: str = sys.executable,
        arguments: Sequence[str] = ("--cpu", "--use-pytorch-cross-attention"),
        packs: dict[str, Path] | None = None,
        patience: float = 300.0,
    ):
        self.comfyui = expand_path(comfyui)
        self.python = python
        self.arguments = list(arguments)
        self.packs = PACKS if packs is None else packs
        self.patience = patience

    def __enter__(self) -> ComfyUIServer:
        self._folder = tempfile.TemporaryDirectory(prefix="comfyui-")
        base = Path(self._folder.name)
        for name in ("custom_nodes", "models", "input", "output", "user", "temp"):
            (base / name).mkdir()
        for name, folder in self.packs.items():
            (base / "custom_nodes" / name).symlink_to(folder, target_is_directory=True)
        self.output = base / "output"
        self.log_file = base / "server.log"
        self.start()
        return self

    def start(self) -> None:
        """Start the process in the server's folder, with a log of its own, and wait until it answers."""
        base = Path(self._folder.name)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        # For nodes of the lab that are linked into the server. The folder of main.py still comes first.
        python_path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        command = [self.python, "main.py", "--listen", "127.0.0.1", "--port", str(self.port)]
        command += ["--base-directory", str(base), "--database-url", "sqlite:///:memory:", "--disable-auto-launch"]
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                command + self.arguments,
                cwd=self.comfyui,
                env={**os.environ, "PYTHONPATH": python_path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._folder.cleanup()

    @property
    def address(self) -> str:
        """The address of the server for a browser."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """The output of the server so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def get(self, path: str) -> Any:
        """The JSON answer to a GET."""
        with urllib.request.urlopen(self.address + path, timeout=30) as answer:
            return json.load(answer)

    def post(self, path: str, body: Any = None) -> Any:
        """The JSON answer to a POST, None where it is empty.

        Raises:
            ServerError: the server refused; the message carries its words.
        """
        data = json.dumps(body if body is not None else {}).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read()
        except urllib.error.HTTPError as refusal:
            raise ServerError(refusal.read().decode(errors="replace")) from None
        return json.loads(text) if text else None

    def queue(self, prompt: dict[str, Any]) -> str:
        """Queue a workflow in API format; its prompt id."""
        prompt_id: str = self.post("/prompt", {"prompt": prompt})["prompt_id"]
        return prompt_id

    def wait(self, prompt_id: str) -> dict[str, Any]:
        """The history entry of a prompt, once it is there.

        Raises:
            ServerError: the prompt failed, was interrupted, or took longer than `patience`.
        """
        end = time.monotonic() + self.patience
        while time.monotonic() < end:
            entry: dict[str, Any] | None = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None:
                if entry["status"]["status_str"] != "success":
                    event, details = entry["status"]["messages"][-1]
                    where = f"{event} in {details.get('node_type')}"
                    raise ServerError(f"{where}: {details.get('exception_message', '').strip()}")
                return entry
            self._check_alive()
            time.sleep(0.05)
        raise ServerError(f"the prompt took longer than {self.patience:g} seconds")

    def run(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """Queue a workflow and wait for it; outputs by node id."""
        outputs: dict[str, Any] = self.wait(self.queue(prompt))["outputs"]
        return outputs

    def download(self, filename: str, kind: str = "output") -> bytes:
        """A file the server has saved, over HTTP."""
        query = urllib.parse.urlencode({"filename": filename, "type": kind})
        with urllib.request.urlopen(f"{self.address}/view?{query}", timeout=30) as answer:
            content: bytes = answer.read()
            return content

    def _wait_until_it_answers(self) -> None:
        end = time.monotonic() + self.patience
        while time.monotonic() < end:
            self._check_alive()
            try:
                self.get("/system_stats")
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise ServerError(f"ComfyUI did not answer within {self.patience:g} seconds:\n{self.log[-3000:]}")

    def _check_alive(self) -> None:
        if self.process.poll() is not None:
            raise ServerError(f"ComfyUI stopped by itself:\n{self.log[-3000:]}")


def interpreter_of(comfyui: Path) -> str:
    """The Python a ComfyUI folder is run with: its own environment where it has one, else `$COMFYUI_PYTHON` or ours."""
    if "COMFYUI_PYTHON" in os.environ:
        return os.environ["COMFYUI_PYTHON"]
    places = [Path(comfyui) / name / "bin" / "python" for name in ("venv", ".venv")]
    places += [Path(comfyui) / name / "Scripts" / "python.exe" for name in ("venv", ".venv")]
    places.append(Path(comfyui).parent / "python_embeded" / "python.exe")
    return next((str(place) for place in places if place.exists()), sys.executable)
