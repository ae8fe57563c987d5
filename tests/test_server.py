"""The extension of Jupyter's server: a real server, run directories of recorded runs."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import urllib.request
from pathlib import Path

import jsonschema
import pytest
import yaml

from nbtrain.runtime.events import encode
from nbtrain.runtime.rundir import RunDir

from .event_streams import with_nan, with_user_error, with_warnings
from .harness import until
from .jupyter import TOKEN, jupyter
from .recordings import generated
from .recordings.directories import GoingOn, recorded

BASE = "/hub/user/ann/"


#: The configuration of a server that lets everybody look and nobody change anything, and that
#: does not leave its streams silent for long.
READ_ONLY = """
from jupyter_server.auth.authorizer import Authorizer
import nbtrain.server

class ReadOnly(Authorizer):
    def is_authorized(self, handler, user, action, resource):
        return resource != "nbtrain" or action == "read"

c.ServerApp.authorizer_class = ReadOnly
nbtrain.server.HEARTBEAT_S = 0.2
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    home = folder / "home"
    recorded(home, "digits-1", "digits", 10.0)
    recorded(home, "letters-1", "letters", 20.0)
    with jupyter(folder / "notebooks", home, BASE, program="server") as found:
        yield found
    ended_in_peace(found)


@pytest.fixture(scope="module")
def read_only(tmp_path_factory):
    folder = tmp_path_factory.mktemp("read-only")
    home = folder / "home"
    recorded(home, "digits-1", "digits")
    with jupyter(folder / "notebooks", home, program="server", config=READ_ONLY) as found:
        yield found
    ended_in_peace(found)


def ended_in_peace(server):
    log = server.log.read_text("utf-8")
    assert "Traceback" not in log, log
    assert "was destroyed" not in log, log  # a task that nobody has waited for
    assert "never awaited" not in log, log


@pytest.fixture(scope="module")
def described():
    """Give what openapi.yaml says."""
    from nbtrain import server as module

    return yaml.safe_load(Path(module.__file__).with_name("openapi.yaml").read_text("utf-8"))


def conforms(described, answer, schema):
    """See that an answer is what openapi.yaml says, by the name of a schema."""
    whole = {"$ref": f"#/components/schemas/{schema}", "components": described["components"]}
    jsonschema.Draft202012Validator(whole).validate(answer)


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


def listed_with(server, run_ids):
    """Return the list of runs, once it has these."""
    answer = server.json("nbtrain/api/runs")
    return answer if run_ids <= {run["id"] for run in answer["runs"]} else None


def test_answers_are_as_described(server, described, tmp_path):
    failed, unfinished = tmp_path / "failed.jsonl", tmp_path / "unfinished.jsonl"
    for path, events in (
        (failed, with_user_error()),
        (unfinished, [*with_nan(), *with_warnings()]),
    ):
        path.write_text("".join(f"{encode(event)}\n" for event in events))
    recorded(server.home, "crowd-1", "crowd", events=generated.FILE)
    recorded(server.home, "failed-1", "failed", events=failed)
    recorded(server.home, "unfinished-1", "unfinished", events=unfinished)
    with GoingOn(server.home, "live-1", "live", 40.0):
        ours = {"digits-1", "crowd-1", "failed-1", "unfinished-1", "live-1"}
        answer = until(lambda: listed_with(server, ours))
        paths = described["paths"]["/runs"]["get"]["responses"]["200"]["content"]
        listed = paths["application/json"]["schema"] | {"components": described["components"]}
        jsonschema.Draft202012Validator(listed).validate(answer)
        found = {run["id"]: run["live"] for run in answer["runs"]}
        assert found["live-1"]
        for run_id in found:
            view = server.json(f"nbtrain/api/runs/{run_id}")
            conforms(described, view, "View")
            with pytest.raises(jsonschema.ValidationError):
                conforms(described, view | {"another": 1}, "View")
        with stream(server, "events") as events:
            conforms(described, next(events), "Changes")
        with stream(server, "events?run=live-1") as events:
            conforms(described, next(events), "View")
    for run_id in ("crowd-1", "failed-1", "unfinished-1", "live-1"):
        assert server.status(f"nbtrain/api/runs/{run_id}", "DELETE") == 204


def test_a_server_may_let_users_look_and_change_nothing(read_only):
    run = "nbtrain/api/runs/digits-1"
    for path in ("nbtrain/api/runs", run, f"{run}/logs/1", f"{run}/files"):
        assert read_only.status(path) == 200
    for path, method in ((f"{run}/stop", "POST"), (f"{run}/tensorboard", "POST"), (run, "DELETE")):
        assert read_only.status(path, method) == 403
    assert read_only.status(run) == 200


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


def test_stream_tells_all_then_what_changes_then_what_is_gone(server, described):
    with stream(server, "events") as events:
        first = next(events)
        assert first["all"]
        assert {"digits-1", "letters-1"} <= {run["id"] for run in first["runs"]}
        recorded(server.home, "new-1", "new", 30.0)
        assert [run["id"] for run in next(events)["runs"]] == ["new-1"]
        assert server.status("nbtrain/api/runs/new-1", "DELETE") == 204
        gone = next(events)
    conforms(described, gone, "Changes")
    assert gone == {"runs": [], "gone": ["new-1"], "all": False, "problems": []}


def test_stream_of_one_run_gives_its_view_and_its_end(server, described):
    recorded(server.home, "gone-1", "gone", 30.0)
    with stream(server, "events?run=gone-1") as events:
        assert next(events)["doing"] == "trained"
        assert server.status("nbtrain/api/runs/gone-1", "DELETE") == 204
        gone = next(events)
    conforms(described, gone, "Gone")
    assert server.status("nbtrain/api/events?run=nothing") == 404


def test_stream_says_now_and_then_that_it_is_alive_and_no_proxy_holds_it_back(read_only):
    with read_only.request("nbtrain/api/events?run=digits-1") as answer:
        assert answer.headers["X-Accel-Buffering"] == "no"
        assert answer.headers["Cache-Control"] == "no-cache"
        lines = filter(None, map(bytes.strip, answer))
        assert next(lines).startswith(b"data: ")
        assert [next(lines) for _ in range(2)] == [b": nothing new"] * 2


def test_server_ends_although_somebody_listens(tmp_path):
    # `jupyter` here asserts that it does, in time.
    folder, home = tmp_path / "notebooks", tmp_path / "home"
    with contextlib.ExitStack() as listening, jupyter(folder, home, program="server") as server:
        events = listening.enter_context(stream(server, "events", base="/"))
        assert next(events)["all"]
    ended_in_peace(server)


def test_openapi_file_describes_every_route(described):
    validator = pytest.importorskip("openapi_spec_validator")
    from nbtrain import server as module

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
