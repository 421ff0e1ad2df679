"""The archive of the registry, loaded on its own."""

from __future__ import annotations

import asyncio
import shutil
import sys
import zipfile

import pytest

from lab.folders import ROOT
from lab.generate.archive import write_archive
from lab.testing.in_process_host import load_pack


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="not a git checkout")
def test_the_archive_is_enough_for_every_node(tmp_path):
    write_archive(tmp_path / "pack.zip")
    with zipfile.ZipFile(tmp_path / "pack.zip") as packed:
        packed.extractall(tmp_path / "pack")
    from_archive = load_pack("symmetric_attention_from_archive", tmp_path / "pack")
    assert from_archive.__file__.startswith(str(tmp_path))

    def ids(pack):
        async def listed():
            return await (await pack.comfy_entrypoint()).get_node_list()

        return [node.GET_SCHEMA().node_id for node in asyncio.run(listed())]

    assert ids(from_archive) == ids(sys.modules["symmetric_attention"])
    assert len(ids(from_archive)) >= 5
