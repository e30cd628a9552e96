"""`headrace demo` before anything is served."""

import json

import pytest
from rich.console import Console

from pipelines.commands import demo
from pipelines.inference.manifest import FORMAT
from pipelines.places import Places


class LoopBegunError(Exception):
    """A loop was about to run."""


@pytest.mark.parametrize("found", [FORMAT - 1, FORMAT + 1])
def test_a_bundle_of_another_version_is_trained_again_instead_of_served(tmp_path, monkeypatch, capsys, found):
    places = Places(tmp_path)
    bundle = places.bundles / "b1"
    bundle.mkdir(parents=True)
    (bundle / "manifest.json").write_text(json.dumps({"format": found}))
    places.current_bundle.parent.mkdir(parents=True)
    places.current_bundle.write_text(json.dumps({"bundle": "b1"}))

    def begin(*_, **__):
        raise LoopBegunError

    monkeypatch.setattr(demo, "refuse_taken_port", lambda *_: None)
    monkeypatch.setattr(demo, "run_loop", begin)
    with pytest.raises(LoopBegunError):
        demo.run_demo(places, port=3000, exit_after=True, user=None, query=None, console=Console(width=200))
    assert "Another version of Headrace wrote the live bundle b1" in capsys.readouterr().out
