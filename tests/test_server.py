"""The extension of Jupyter's server: a real server, run directories of recorded runs."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import shutil
import urllib.request
from pathlib import Path

import pytest
import yaml

from nbtrain.runtime.rundir import RunDir

from .jupyter import TOKEN, jupyter
from .recordings import generated

BASE = "/hub/user/ann/"


def recorded(home: Path, run_id: str, name: str, created: float = 1.0) -> RunDir:
    """Lay a run directory of the recorded run."""
    rundir = RunDir(home / "runs" / run_id)
    rundir.create()
    rundir.write_json(
        RunDir.REQUEST,
        {"id": run_id, "name": name, "created": created, "backend": "local", "workers": 2}
        | {"epochs": 6, "batch": 64, "seed": 42},
    )
    shutil.copy(generated.REAL, rundir / RunDir.EVENTS)
    (rundir / rundir.log(1)).write_text("".join(f"line {i} ü\n" for i in range(40_000)), "utf-8")
    rundir.write_json(RunDir.CARD, {"seed": 42})
    return rundir


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    home = folder / "home"
    recorded(home, "digits-1", "digits", 10.0)
    recorded(home, "letters-1", "letters", 20.0)
    with jupyter(folder / "notebooks", home, BASE, program="server") as found:
        yield found


def test_lists_runs_newest_first_below_the_base_url(server):
    runs = server.json("nbtrain/api/runs")["runs"]
    names = [run["name"] for run in runs if run["id"].endswith("-1")]
    assert names == ["letters", "digits"]
    assert runs[0]["doing"] == "trained"
    assert runs[0]["metric"] == "accuracy 0.9125"


def test_gives_all_there_is_to_draw_of_a_run(server):
    view = server.json("nbtrain/api/runs/digits-1")
    assert view["rest"] == ["6 epochs in 32 s"]
    assert [plot["name"] for plot in view["plots"]] == ["loss", "accuracy"]


def test_gives_a_log_in_pieces_that_fit_together(server):
    whole = (server.home / "runs/digits-1/logs/worker-1.log").read_text("utf-8")
    parts, offset, full = [], 0, True
    while full:
        piece = server.json(f"nbtrain/api/runs/digits-1/logs/1?offset={offset}&limit=99999")
        parts.append(piece["text"])
        offset, full = piece["next"], piece["full"]
    assert "".join(parts) == whole
    assert len(parts) > 3
    end = server.json("nbtrain/api/runs/digits-1/logs/1?limit=100")
    assert whole.endswith(end["text"])
    assert server.json("nbtrain/api/runs/digits-1/logs/0")["text"] == ""


def test_gives_files_of_the_index_and_no_others(server):
    files = server.json("nbtrain/api/runs/digits-1/files")["files"]
    assert RunDir.EVENTS in {file["path"] for file in files}
    with server.request(f"nbtrain/api/runs/digits-1/files/{RunDir.EVENTS}") as answer:
        assert answer.read() == generated.REAL.read_bytes()
        assert "attachment" in answer.headers["Content-Disposition"]
    for path in ("..%2F..%2F..%2Fsecret", "%2Fetc%2Fpasswd", "..%2Fletters-1%2Frequest.json"):
        assert server.status(f"nbtrain/api/runs/digits-1/files/{path}") == 404


def test_lays_a_folder_that_tensorboard_can_show_or_says_what_to_add(server):
    rundir = RunDir(server.home / "runs" / "letters-1")
    for name in ("events.out.tfevents.1.host", "plugins/profile/day/host.xplane.pb"):
        path = rundir / f"files/tb/train/{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (rundir / "files/rows.csv").write_text("no log of TensorBoard's")
    for _ in range(2):  # the second time it is brought up to date
        made = server.json("nbtrain/api/runs/letters-1/tensorboard", "POST")
        folder = server.home.parent / "notebooks" / "letters-tensorboard"
        assert made == {"folder": str(folder), "command": f"tensorboard --logdir {folder}"}
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert found == {
        "tb/train/events.out.tfevents.1.host",
        "tb/train/plugins/profile/day/host.xplane.pb",
    }
    assert server.status("nbtrain/api/runs/digits-1/tensorboard", "POST") == 409
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.json("nbtrain/api/runs/digits-1/tensorboard", "POST")
    assert "keras.callbacks.TensorBoard" in json.load(refused.value)["message"]


def test_exports_a_run_as_yaml_that_trains_it_anew(server):
    rundir = RunDir(server.home / "runs" / "digits-1")
    (rundir / RunDir.PAYLOAD).write_bytes(b"payload")
    with server.request("nbtrain/api/runs/digits-1/export") as answer:
        assert answer.headers["Cache-Control"] == "no-store"
        objects = list(yaml.safe_load_all(answer.read()))
    kinds = [one["kind"] for one in objects]
    assert {"Secret", "Job", "Service"} <= set(kinds)
    secret = objects[kinds.index("Secret")]
    assert b"payload" in base64.b64decode(secret["data"]["payload.bin"])


def test_says_what_is_wrong(server):
    assert server.status("nbtrain/api/runs/nothing") == 404
    assert server.status("nbtrain/api/runs/digits-1/logs/1?offset=x") == 400
    assert server.status("nbtrain/api/runs/digits-1/stop", "POST", {"grace": -1}) == 400
    assert server.json("nbtrain/api/runs/digits-1/card") == {"seed": 42}


def test_nobody_gets_anything_without_the_token(server):
    for path in ("runs", "runs/digits-1", "events", "runs/digits-1/files/events.jsonl"):
        assert server.status(f"nbtrain/api/{path}", Authorization="") == 403


def test_a_page_of_another_site_can_not_stop_or_delete(server):
    # With a cookie alone, as a browser sends it by itself, the XSRF token is asked for.
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    opener.open(f"{server.url}?token={TOKEN}", timeout=30)
    assert opener.open(server.url + "nbtrain/api/runs", timeout=30).status == 200
    for path, method in (("runs/digits-1/stop", "POST"), ("runs/digits-1", "DELETE")):
        request = urllib.request.Request(server.url + f"nbtrain/api/{path}", method=method)
        with pytest.raises(urllib.error.HTTPError, match="403"):
            opener.open(request, timeout=30)
    assert server.status("nbtrain/api/runs/digits-1") == 200


def test_stream_tells_all_then_what_changes_then_what_is_gone(server):
    with stream(server, "events") as events:
        first = next(events)
        assert first["all"]
        assert {"digits-1", "letters-1"} <= {run["id"] for run in first["runs"]}
        recorded(server.home, "new-1", "new", 30.0)
        assert [run["id"] for run in next(events)["runs"]] == ["new-1"]
        assert server.status("nbtrain/api/runs/new-1", "DELETE") == 204
        assert next(events) == {"runs": [], "gone": ["new-1"], "all": False, "problems": []}


def test_stream_of_one_run_gives_its_view_and_its_end(server):
    recorded(server.home, "gone-1", "gone", 30.0)
    with stream(server, "events?run=gone-1") as events:
        assert next(events)["doing"] == "trained"
        assert server.status("nbtrain/api/runs/gone-1", "DELETE") == 204
        assert next(events) == {"gone": True}
    assert server.status("nbtrain/api/events?run=nothing") == 404


def test_server_ends_although_somebody_listens(tmp_path):
    # `jupyter` here asserts that it does, in time.
    folder, home = tmp_path / "notebooks", tmp_path / "home"
    with contextlib.ExitStack() as listening, jupyter(folder, home, program="server") as server:
        events = listening.enter_context(stream(server, "events", base="/"))
        assert next(events)["all"]


def test_openapi_file_describes_every_route():
    yaml = pytest.importorskip("yaml")
    validator = pytest.importorskip("openapi_spec_validator")
    from nbtrain import server as module

    described = yaml.safe_load(Path(module.__file__).with_name("openapi.yaml").read_text("utf-8"))
    validator.validate(described)
    known = {
        "/" + re.sub(r"\([^)]*\)", "{}", path): {
            method for method in ("get", "post", "delete") if method in vars(handler)
        }
        for path, handler in module.ROUTES
    }
    found = {
        re.sub(r"\{\w+\}", "{}", path): set(methods) & {"get", "post", "delete"}
        for path, methods in described["paths"].items()
    }
    assert found == known


@contextlib.contextmanager
def stream(server, path, base=BASE):
    """Give the data of the events of a stream."""
    connection = http.client.HTTPConnection(server.url.split("/")[2], timeout=30)
    connection.request(
        "GET", f"{base}nbtrain/api/{path}", headers={"Authorization": f"token {TOKEN}"}
    )
    answer = connection.getresponse()
    assert answer.headers["Content-Type"].startswith("text/event-stream")

    def data():
        for line in answer:
            if line.startswith(b"data: "):
                yield json.loads(line[6:])

    try:
        yield data()
    finally:
        connection.close()
