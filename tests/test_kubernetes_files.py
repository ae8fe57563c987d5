"""The run directory of a real pod through the API server: by the pod proxy, and by exec."""

from __future__ import annotations

import hashlib
import json
import os
import threading

import pytest

from nbtrain.backends.kubernetes.client import Client
from nbtrain.backends.kubernetes.errors import ApiError
from nbtrain.backends.kubernetes.exec import Command, CommandFailed
from nbtrain.backends.kubernetes.files import PodFiles
from nbtrain.backends.kubernetes.manifests import GIVEN, RUN_FOLDER, RUNTIME
from nbtrain.errors import BackendError
from nbtrain.payload import runtime_zip

from . import cluster as test_cluster
from .cluster import network
from .connect_proxy import ConnectProxy
from .harness import until
from .kubernetes_pods import (
    Connections,
    manifests,
    needs_own_cluster,
    python_image,
    user_with,
    write_kubeconfig,
)

pytestmark = pytest.mark.cluster

TOKEN = "the-token-of-this-run"
MIB = 2**20


@pytest.fixture
def client(namespace, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(test_cluster.kubeconfig()))
    return Client(namespace=namespace)


@pytest.fixture
def payload(tmp_path):
    path = tmp_path / "payload.bin"
    path.write_bytes(os.urandom(MIB) * 100)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def pod(client, payload):
    """Return the name of a restricted pod that serves a run directory without a head."""
    made = manifests(image=python_image(), payload_sha256=payload[1], storage="none")
    secret = made.server_secret(runtime_zip().read_bytes(), TOKEN)
    template = made.server()["spec"]["template"]
    spec = template["spec"]
    spec["volumes"] = [v for v in spec["volumes"] if v["name"] != "run"]
    spec["volumes"].append({"name": "run", "emptyDir": {}})
    request = f'{{"payload_sha256": "{payload[1]}"}}'
    container = spec["containers"][0]
    container["command"] = [
        "sh",
        "-ec",
        f"echo '{request}' > {RUN_FOLDER}/request.json; exec \"$@\"",
    ]
    container["args"] = ["-", "python3", "-I", RUNTIME, *container["args"]]
    name = f"{made.base}-server"
    metadata = {**template["metadata"], "name": name}
    client.create(secret)
    client.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    try:
        until(lambda: client.get("Pod", name)["status"]["phase"] == "Running", 60)
        until(lambda: "serving" in log(client, name), 20)
        yield name
    finally:
        client.delete("Pod", name, grace_s=0)
        client.delete("Secret", secret["metadata"]["name"])
        until(lambda: not client.find("Pod")["items"], 30)


def log(client, name):
    with client.open("GET", client.path("Pod", name, "log")) as response:
        return response.read().decode()


def files(client, pod, way):
    found = PodFiles(client, pod, "server", TOKEN if way == "proxy" else "")
    expected = {"proxy": "Proxy", "exec": "Exec"}[way]
    assert type(found.way()).__name__ == expected
    return found


@pytest.mark.parametrize("way", ["proxy", "exec"])
def test_a_big_file_goes_there_and_comes_back_as_it_was(client, pod, payload, way):
    path, sha256 = payload
    sent = []
    run = files(client, pod, way)
    with path.open("rb") as source:
        run.put(source, sha256, sent.append)
    assert sent == sorted(sent)
    assert sent[-1] == 100 * MIB
    digest = hashlib.sha256()
    for piece in run.read("payload.bin"):
        digest.update(piece)
    assert digest.hexdigest() == sha256
    assert b"".join(run.read("payload.bin", 100 * MIB - 5)) == path.read_bytes()[-5:]


@pytest.mark.parametrize("way", ["proxy", "exec"])
def test_a_file_that_is_not_there(client, pod, way):
    run = files(client, pod, way)
    with pytest.raises(FileNotFoundError):
        list(run.read("nothing"))
    assert b'"request.json"' in b"".join(run.read(""))


@pytest.mark.parametrize("way", ["proxy", "exec"])
def test_another_payload_is_refused(client, pod, payload, tmp_path, way):
    other = tmp_path / "other"
    other.write_bytes(b"other")
    with other.open("rb") as source, pytest.raises(BackendError, match="SHA-256"):
        files(client, pod, way).put(source, payload[1])
    with pytest.raises(FileNotFoundError):
        list(files(client, pod, way).read("payload.bin"))


@pytest.mark.parametrize("way", ["proxy", "exec"])
def test_a_file_is_followed_through_cut_connections_and_a_restart_of_the_api_server(
    client, pod, way, monkeypatch
):
    needs_own_cluster()
    connections = Connections(monkeypatch)

    def disturb(got):
        for number in (6, 12):
            until(lambda line=b"line %d\n" % number: line in got, 20)
            connections.cut("events.jsonl")
        until(lambda: b"line 18\n" in got, 20)
        test_cluster.restart_apiserver()

    got = _followed(client, client, pod, way, disturb)
    assert got == b"".join(b"line %d\n" % i for i in range(60))
    assert connections.ever["events.jsonl"] >= 4
    assert connections.most["events.jsonl"] == 1


def _followed(client, reader, pod, way, disturb):
    """Return what a reader gets of a file to which 60 lines are written, and is disturbed."""
    run = files(reader, pod, way)
    # The lock of a live head, held by a process of the pod.
    hold = (
        "import fcntl,os,sys,time; f=open(sys.argv[1]+'/head.lock','w');"
        "fcntl.flock(f,fcntl.LOCK_EX); log=open(sys.argv[1]+'/events.jsonl','a',buffering=1);"
        "[(log.write(f'line {i}\\n'), time.sleep(0.1)) for i in range(60)]"
    )
    writing = Command(client, pod, "server", ["python3", "-c", hold, RUN_FOLDER])
    got = bytearray()
    done = threading.Event()

    def follow():
        for piece in run.read("events.jsonl", follow=True):
            got.extend(piece)
        done.set()

    thread = threading.Thread(target=follow, daemon=True)
    with writing:
        until(lambda: b"line" in b"".join(_whole(run, "events.jsonl")), 10)
        thread.start()
        until(lambda: b"line 5\n" in got, 20)
        disturb(got)
        assert done.wait(60)
    return bytes(got)


@pytest.mark.parametrize("way", ["proxy", "exec"])
def test_a_file_is_followed_with_new_credentials_once_the_old_ones_are_void(
    client, pod, monkeypatch, tmp_path, way
):
    needs_own_cluster()
    rights = [("pods/exec", "get"), ("pods/exec", "create"), ("pods/proxy", "get")]
    with user_with(client, monkeypatch, rights) as somebody:
        account = _account(client)
        client.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bound"}})
        bound = {"kind": "Secret", "apiVersion": "v1", "name": "bound"}
        answer = tmp_path / "answer"
        answer.write_text(_credential(client, account, {"boundObjectRef": bound}))
        with monkeypatch.context() as patch:
            patch.setenv("KUBECONFIG", str(_kubeconfig_with(tmp_path, answer)))
            renewed = Client(namespace=client.namespace)

            def replace(_):
                client.delete("Secret", "bound")  # a token lives no longer than what it is bound to
                answer.write_text(_credential(client, account, {}))
                test_cluster.restart_apiserver()

            got = _followed(client, renewed, pod, way, replace)
        assert got == b"".join(b"line %d\n" % i for i in range(60))
        assert renewed._renewals == 1
        assert somebody._renewals == 0


def _account(client):
    items = client.call("GET", f"/api/v1/namespaces/{client.namespace}/serviceaccounts")["items"]
    (name,) = {i["metadata"]["name"] for i in items} - {"default"}
    return name


def _credential(client, account, spec):
    """Return a new token of an account as a credentials program prints it."""
    path = f"/api/v1/namespaces/{client.namespace}/serviceaccounts/{account}/token"
    token = client.call("POST", path, body={"spec": spec})["status"]["token"]
    version = "client.authentication.k8s.io/v1"
    return json.dumps({"apiVersion": version, "kind": "ExecCredential", "status": {"token": token}})


def _kubeconfig_with(folder, answer):
    """Return the kubeconfig of somebody whose credentials are what `answer` holds."""
    found = json.loads(test_cluster.kubeconfig("plugin").read_text("utf-8"))
    found["users"][0]["user"]["exec"]["args"] = [str(answer)]
    path = folder / "kubeconfig"
    path.write_text(json.dumps(found))
    return path


def _whole(run, name):
    try:
        yield from run.read(name)
    except FileNotFoundError:
        return


def test_an_exit_code_of_a_command_comes_through(client, pod):
    with (
        Command(client, pod, "server", ["sh", "-c", "echo no >&2; exit 7"]) as command,
        pytest.raises(CommandFailed, match="no") as caught,
    ):
        list(command.output())
    assert caught.value.code == 7


def test_the_token_is_in_no_place_where_others_look(client, pod):
    assert TOKEN not in str(client.get("Pod", pod))
    assert TOKEN not in log(client, pod)
    with Command(client, pod, "server", ["sh", "-c", "env; cat /proc/*/cmdline"]) as command:
        assert TOKEN.encode() not in b"".join(command.output())
    with Command(client, pod, "server", ["cat", f"{GIVEN}/token"]) as command:
        assert b"".join(command.output()) == TOKEN.encode()


# -- kubeconfigs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["a program", "a proxy"])
def test_every_way_to_a_pod_is_the_kubeconfigs(client, pod, tmp_path, monkeypatch, kind):
    """With the credentials that a program prints, and through the proxy that it names."""
    needs_own_cluster()
    if kind == "a program":
        monkeypatch.setenv("KUBECONFIG", str(test_cluster.kubeconfig("plugin")))
        assert_reached(client, pod)
        return
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    # A name of the API server that nobody here knows but the proxy.
    there = "kubernetes.default.svc:6443"
    with ConnectProxy((network.HOST, 6443)) as proxy:
        path = tmp_path / "kubeconfig"
        write_kubeconfig(path, server=f"https://{there}", proxy_url=proxy.url)
        monkeypatch.setenv("KUBECONFIG", str(path))
        assert_reached(client, pod)
        assert set(proxy.asked) == {f"CONNECT {there}"}
        assert len(proxy.asked) > 1  # a websocket's connection is none of the pool's


def assert_reached(client, pod):
    """Assert that a new client lists pods, and reads of one by both ways."""
    other = Client(namespace=client.namespace)
    assert [found["metadata"]["name"] for found in other.find("Pod")["items"]] == [pod]
    for way in ("proxy", "exec"):
        assert b"payload_sha256" in b"".join(files(other, pod, way).read("request.json"))


# -- rights ---------------------------------------------------------------------------------------


def test_without_the_right_to_the_proxy_exec_is_taken(client, pod, monkeypatch):
    with user_with(client, monkeypatch, [("pods/exec", "get"), ("pods/exec", "create")]) as limited:
        run = PodFiles(limited, pod, "server", TOKEN)
        assert type(run.way()).__name__ == "Exec"
        assert b"payload_sha256" in b"".join(run.read("request.json"))


def test_without_any_right_the_missing_one_is_named(client, pod, monkeypatch):
    with user_with(client, monkeypatch, [("pods", "get")]) as limited:
        run = PodFiles(limited, pod, "server", TOKEN)
        with pytest.raises(ApiError, match=r"you lack a right.*pods/exec"):
            list(run.read("request.json"))


def test_a_wrong_token_opens_nothing(client, pod):
    run = PodFiles(client, pod, "server", "another")
    with pytest.raises(ApiError, match="is not that of this run"):
        list(run.read("request.json"))
    with pytest.raises(ApiError, match="is not that of this run"):
        run._fast.ask("quit")
    assert client.get("Pod", pod)["status"]["phase"] == "Running"
