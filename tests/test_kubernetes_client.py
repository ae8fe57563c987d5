"""The way to the API server: kubeconfigs of every kind, and errors that say what to do."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import logging
import socket
import ssl
import stat
import subprocess
import threading

import pytest
import yaml

from nbtrain.backends.kubernetes import access
from nbtrain.backends.kubernetes.client import Client
from nbtrain.backends.kubernetes.errors import (
    AlreadyExists,
    ApiError,
    Gone,
    NotFound,
    Unreachable,
    refused,
)
from nbtrain.errors import BackendError


def kubeconfig(tmp_path, monkeypatch, server="http://127.0.0.1:1", user=None, **contexts):
    contexts = contexts or {"one": "ml"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": next(iter(contexts)),
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user or {"token": "t"}}],
        "contexts": [
            {"name": name, "context": {"cluster": "c", "user": "u", "namespace": namespace}}
            for name, namespace in contexts.items()
        ],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(path))
    return path


def says(call, *arguments, **keywords):
    with pytest.raises(BackendError) as caught:
        call(*arguments, **keywords)
    assert caught.value.__cause__ is None
    return str(caught.value)


# -- kubeconfigs ----------------------------------------------------------------------------------


def test_context_and_namespace_are_the_kubeconfigs_or_those_asked_for(tmp_path, monkeypatch):
    kubeconfig(tmp_path, monkeypatch, one="ml", two="other")
    found = [
        access.load(*asked) for asked in (("", ""), ("two", ""), ("one", "mine"), ("", "mine"))
    ]
    assert [(a.context, a.namespace) for a in found] == [
        ("one", "ml"), ("two", "other"), ("one", "mine"), ("one", "mine"),
    ]  # fmt: skip
    assert found[0].headers() == {"authorization": "Bearer t"}


def test_several_kubeconfigs_are_merged_as_kubectl_does(tmp_path, monkeypatch):
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        kubeconfig(tmp_path / str(number), monkeypatch, **{f"context-{number}": "ns"})
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/1/kubeconfig:{tmp_path}/2/kubeconfig")
    assert access.load().context == "context-1"
    assert access.load("context-2").context == "context-2"


def test_a_mistyped_context_is_answered_with_the_nearest(tmp_path, monkeypatch):
    kubeconfig(tmp_path, monkeypatch, production="ml", staging="ml")
    message = says(access.load, "produktion")
    assert message.splitlines() == [
        "the kubeconfig has no context 'produktion'; did you mean production?",
        "There are: production, staging.",
    ]


def test_who_acts_for_somebody_else_is_refused(tmp_path, monkeypatch):
    kubeconfig(tmp_path, monkeypatch, user={"token": "t", "as": "jane", "as-groups": ["a", "b"]})
    message = says(access.load)
    assert "acts for somebody else (as: jane, as-groups: ['a', 'b'])" in message
    assert "kubectl create token" in message


def test_no_kubeconfig_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    assert "there is no kubeconfig" in says(access.load)


@pytest.mark.parametrize("text", ["", "- a", "a: [", "current-context: x"])
def test_a_broken_kubeconfig_is_said(tmp_path, monkeypatch, text):
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(path))
    assert "kubeconfig" in says(access.load)


def plugin(tmp_path, script):
    path = tmp_path / "plugin"
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": str(path),
            "interactiveMode": "Never",
        }
    }


def credential(**status):
    return json.dumps(
        {
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            "status": status,
        }
    )


def test_credentials_come_from_a_program(tmp_path, monkeypatch):
    user = plugin(tmp_path, f"echo '{credential(token='from-a-program')}'")
    kubeconfig(tmp_path, monkeypatch, user=user)
    assert access.load().headers() == {"authorization": "Bearer from-a-program"}


def test_a_program_that_fails_is_said_and_nothing_is_logged(tmp_path, monkeypatch):
    root = logging.getLogger()
    before = list(root.handlers)
    user = plugin(tmp_path, "echo 'please log in' >&2; exit 1")
    kubeconfig(tmp_path, monkeypatch, user=user)
    message = says(access.load)
    assert "no credentials for the context one" in message
    assert "kubectl --context one get pods" in message
    assert root.handlers == before


def test_a_token_with_an_expiry_is_renewed_before_it_is_used(tmp_path, monkeypatch):
    count = tmp_path / "count"
    old = credential(token="T$n", expirationTimestamp="2020-01-01T00:00:00Z").replace('"', '\\"')
    user = plugin(tmp_path, f'echo x >> {count}; n=$(wc -l < {count}); echo "{old}"')
    kubeconfig(tmp_path, monkeypatch, user=user)
    found = access.load()
    first, second = found.headers(), found.headers()
    assert first != second


# -- the API --------------------------------------------------------------------------------------


class Api(http.server.BaseHTTPRequestHandler):
    """As much of an API server as tokens and broken answers need."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append(self.headers["Authorization"])
        status, body = self.server.answer(self)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def api(answer, tls=None):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
    server.asked, server.answer = [], answer
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_credentials_that_are_refused_are_got_anew_once(tmp_path, monkeypatch):
    tokens = tmp_path / "token"
    tokens.write_text("old")

    def answer(request):
        if request.headers["Authorization"] == "Bearer new":
            return 200, b'{"gitVersion": "v1"}'
        tokens.write_text("new")
        return 401, b"{}"

    with api(answer) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        kubeconfig(tmp_path, monkeypatch, address, {"tokenFile": str(tokens)})
        client = Client()
        assert client.reachable() == "v1"
        assert server.asked == ["Bearer old", "Bearer new"]
        assert client.reachable() == "v1"
        assert len(server.asked) == 3


def test_the_credentials_of_a_websocket_are_got_anew_once(tmp_path, monkeypatch):
    """Those of a program whose token says nothing of its end, as some of the clouds' do."""
    answers = tmp_path / "answer"
    answers.write_text(credential(token="old"))

    def answer(request):
        if request.headers["Authorization"] != "Bearer new":
            answers.write_text(credential(token="new"))
            return 401, b"{}"
        told = request.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        request.send_response(101)
        request.send_header("Upgrade", "websocket")
        request.send_header("Connection", "Upgrade")
        accepted = base64.b64encode(hashlib.sha1(told.encode()).digest()).decode()
        request.send_header("Sec-WebSocket-Accept", accepted)
        request.send_header("Sec-WebSocket-Protocol", "v4.channel.k8s.io")
        request.end_headers()
        raise ConnectionAbortedError

    with api(answer) as server:
        server.handle_error = lambda *_: None
        address = f"http://127.0.0.1:{server.server_port}"
        kubeconfig(tmp_path, monkeypatch, address, plugin(tmp_path, f"cat {answers}"))
        client = Client()
        client.websocket("/exec", []).shutdown()
        assert server.asked == ["Bearer old", "Bearer new"]
        client.websocket("/exec", []).shutdown()
        assert server.asked[2:] == ["Bearer new"]


def test_a_websocket_of_somebody_unknown_is_refused(tmp_path, monkeypatch):
    with api(lambda _: (401, b"{}")) as server:
        kubeconfig(tmp_path, monkeypatch, f"http://127.0.0.1:{server.server_port}")
        message = says(Client().websocket, "/exec", [])
        assert len(server.asked) == 2
    assert "does not know who you are" in message


def test_who_is_not_known_is_told_to_log_in(tmp_path, monkeypatch):
    with api(lambda _: (401, b"{}")) as server:
        kubeconfig(tmp_path, monkeypatch, f"http://127.0.0.1:{server.server_port}")
        message = says(Client().reachable)
        assert len(server.asked) == 2
    assert "does not know who you are" in message
    assert "kubectl --context one get pods" in message


def test_an_answer_that_breaks_off_is_an_error(tmp_path, monkeypatch):
    def answer(request):
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        request.wfile.write(b"{")
        raise ConnectionAbortedError

    with api(answer) as server:
        server.handle_error = lambda *_: None
        kubeconfig(tmp_path, monkeypatch, f"http://127.0.0.1:{server.server_port}")
        assert "broke off" in says(Client().reachable)


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_where_nothing_listens(tmp_path, monkeypatch):
    kubeconfig(tmp_path, monkeypatch, f"http://127.0.0.1:{free_port()}")
    assert "nothing listens at http://127.0.0.1" in says(Client().reachable)


def test_a_name_that_does_not_resolve(tmp_path, monkeypatch):
    kubeconfig(tmp_path, monkeypatch, "https://cluster.invalid")
    assert "not known to this machine's DNS" in says(Client().reachable)


def test_a_certificate_that_is_not_trusted(tmp_path, monkeypatch):
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-keyout", key, "-out", certificate, "-days", "1", "-subj", "/CN=x"],
        check=True, capture_output=True,
    )  # fmt: skip
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with api(lambda _: (200, b"{}"), tls) as server:
        server.handle_error = lambda *_: None
        kubeconfig(tmp_path, monkeypatch, f"https://127.0.0.1:{server.server_port}")
        message = says(Client().reachable)
    assert "certificate that is not trusted" in message


def status(reason, message):
    return json.dumps({"kind": "Status", "reason": reason, "message": message}).encode()


@pytest.mark.parametrize(
    ("code", "body", "kind", "words"),
    [
        (404, status("NotFound", 'jobs.batch "a" not found'), NotFound, 'jobs.batch "a" not found'),
        (409, status("AlreadyExists", "exists"), AlreadyExists, "exists"),
        (404, status("NotFound", 'namespaces "ml" not found'), NotFound,
         "there is no namespace ml."),
        (410, status("Expired", "too old"), Gone, "too old"),
        (403, status("Forbidden", 'jobs.batch is forbidden: User "anna" cannot create resource'
         ' "jobs" in API group "batch" in the namespace "ml"'), ApiError,
         'you lack a right: User "anna" cannot create resource "jobs"'),
        (403, status("Forbidden", 'pods "a" is forbidden: exceeded quota: small, requested:'
         " requests.cpu=2, used: requests.cpu=3, limited: requests.cpu=4"), ApiError,
         "the namespace's quota small has no room for this: requested: requests.cpu=2"),
        (403, status("Forbidden", 'pods "a" is forbidden: violates PodSecurity "restricted:latest":'
         " hostPath volumes"), ApiError, "Pod Security level does not admit these pods"),
        (403, status("Forbidden", 'pods "a" is forbidden: maximum cpu usage per Container is 1, but'
         " limit is 2"), ApiError, "the cluster forbids this: maximum cpu usage per Container"),
        (422, status("Invalid", "spec: Required"), ApiError, "finds this invalid: spec: Required"),
        (500, b"<html>oops", ApiError, "trouble of its own (500): <html>oops"),
        (418, b"", ApiError, "HTTP 418"),
    ],
)  # fmt: skip
def test_what_the_api_refuses_is_said_in_words(code, body, kind, words):
    error = refused(code, body)
    assert type(error) is kind
    assert words in error.message
    assert error.status == code


def test_unreachable_is_a_backend_error():
    assert issubclass(Unreachable, BackendError)
