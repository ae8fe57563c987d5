"""The options of containers and pods: Kubernetes' names and quantities."""

from __future__ import annotations

import contextlib
import json

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from nbtrain import config, container_values
from nbtrain.errors import OptionError
from nbtrain.line import parse
from nbtrain.request import BY_NAME, OPTIONS, make_request
from nbtrain.runtime.request import TrainRequest

CONTAINER = [o for o in OPTIONS if o.container]


def options(line):
    return parse(line).options


def says(line):
    with pytest.raises(OptionError) as caught:
        parse(line)
    return str(caught.value).splitlines()[0]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--cpu 2", {"cpu": 2.0}),
        ("--cpu 500m", {"cpu": 0.5}),
        ("--cpu=1.5", {"cpu": 1.5}),
        ("--gpus 1", {"gpus": 1}),
        ("--image tensorflow/tensorflow:2.21.0", {"image": "tensorflow/tensorflow:2.21.0"}),
        ("--image localhost:5000/a/b_c:T.1@sha256:" + 64 * "0",
         {"image": "localhost:5000/a/b_c:T.1@sha256:" + 64 * "0"}),
        ("--env A=1 B=x=y,z --env C=", {"env": {"A": "1", "B": "x=y,z", "C": ""}}),
        ("--node-selector disk=ssd,zone=a", {"node_selector": {"disk": "ssd", "zone": "a"}}),
        ("--node-selector a.io/os=linux", {"node_selector": {"a.io/os": "linux"}}),
        ("--labels team=a cost/centre=7", {"labels": {"team": "a", "cost/centre": "7"}}),
        ("--annotations 'a/b=any, text'", {"annotations": {"a/b": "any, text"}}),
        ("--tolerations gpu=true:NoSchedule spot", {"tolerations": (
            {"key": "gpu", "operator": "Equal", "value": "true", "effect": "NoSchedule"},
            {"key": "spot", "operator": "Exists"})}),
        ("--tolerations gpu:NoExecute", {"tolerations": (
            {"key": "gpu", "operator": "Exists", "effect": "NoExecute"},)}),
        ("--image-pull-secret a b", {"image_pull_secret": ("a", "b")}),
        ("--secret keys certs:/etc/certs", {"secret": ("keys", "certs:/etc/certs")}),
        ("--volume data:/data other:/mnt/x/:ro", {"volume": ("data:/data", "other:/mnt/x:ro")}),
        ("--storage 20Gi", {"storage": 20 * 2**30}),
        ("--storage none", {"storage": 0}),
        ("--max-time 12h", {"max_time": 43200.0}),
        ("--namespace ml --context prod --service-account trainer",
         {"namespace": "ml", "context": "prod", "service_account": "trainer"}),
        ("--storage-class fast.ssd --priority-class low",
         {"storage_class": "fast.ssd", "priority_class": "low"}),
    ],
)  # fmt: skip
def test_options_are_written_as_in_kubernetes(line, expected):
    assert options(line) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--cpu lots", "--cpu lots: must be a number of cores, such as 2, 0.5 or 500m"),
        ("--cpu 0", "--cpu 0: must be a number of cores, such as 2, 0.5 or 500m"),
        ("--cpus 2", "--cpus: no such option; did you mean --cpu?"),
        ("--gpus some", "--gpus some: must be a whole number"),
        ("--image Train:1", "--image Train:1: must be the name of an image, such as"
         " registry.example/team/train:1"),
        ("--namespace My_Team", "--namespace My_Team: must be the name of a namespace: at most 63"
         " lower-case letters, digits and dashes"),
        ("--service-account A", "--service-account A: must be the name of a ServiceAccount:"
         " lower-case letters, digits and dashes"),
        ("--env 1A=2", "--env 1A=2: '1A' is not the name of an environment variable"),
        ("--env TF_CONFIG=x", "--env TF_CONFIG=x: TF_CONFIG is set by nbtrain itself"),
        ("--env NBTRAIN_NOT_THERE", "--env NBTRAIN_NOT_THERE: NBTRAIN_NOT_THERE has no value here;"
         " write NBTRAIN_NOT_THERE=VALUE"),
        ("--labels a", "--labels a: must be key=value, such as team=vision"),
        ("--labels a=b/c", "--labels a=b/c: 'b/c' can't be a label's value: letters, digits,"
         " dashes, dots and underscores, at most 63"),
        ("--labels nbtrain/run=x", "--labels nbtrain/run=x: nbtrain/run belongs to nbtrain"),
        ("--labels -a=b", "--labels: a value is missing"),
        ("--node-selector /a=b", "--node-selector /a=b: '/a' can't be a key; keys are like team or"
         " example.com/team"),
        ("--tolerations a=b:Never", "--tolerations a=b:Never: Never: the effects are NoSchedule,"
         " PreferNoSchedule, NoExecute"),
        ("--volume data", "--volume data: must be PersistentVolumeClaim:/path, such as data:/data"),
        ("--volume data:/nbtrain/run", "--volume data:/nbtrain/run: /nbtrain/run is needed by the"
         " run itself; take another path"),
        ("--volume data:/a/../nbtrain", "--volume data:/a/../nbtrain: must be"
         " PersistentVolumeClaim:/path, such as data:/data"),
        ("--volume data:/data:rw", "--volume data:/data:rw: 'rw' is not known after the path"),
        ("--storage much", "--storage much: must be the size of a volume, such as 20Gi, or none"),
        ("--pod-template nowhere.yaml",
         "--pod-template nowhere.yaml: can't be read: No such file or directory"),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_by_one_sentence(line, message):
    assert says(line) == message


def test_a_name_alone_takes_the_notebooks_value(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert options("--env WANDB_MODE") == {"env": {"WANDB_MODE": "offline"}}


def test_a_pod_template_is_a_file_or_a_dict(tmp_path):
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"hostNetwork": False}}
    file = tmp_path / "pod.yaml"
    file.write_text("kind: Pod\nmetadata: {labels: {a: b}}\nspec: {hostNetwork: false}\n")
    assert options(f"--pod-template {file}") == {"pod_template": template}
    request = make_request("t", {"pod_template": template})
    assert request.container == {"pod_template": template}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML in line 2"),
        ("- a", "must be a YAML file, or a dict"),
        ("kind: Job\nspec: {}", "must be a pod"),
        ("spec: 3", "must have a pod's metadata or spec"),
        ("spec: {a: 2020-01-01}", "must hold only what YAML has"),
    ],
)
def test_what_is_no_pod_template_is_refused(tmp_path, text, message):
    file = tmp_path / "pod.yaml"
    file.write_text(text + "\n")
    assert message in says(f"--pod-template {file}")


def test_what_is_asked_of_containers_is_kept_together_in_the_request():
    request = make_request("t", {"cpu": "500m", "image": "a:1", "memory": "1Gi"})
    assert request.container == {"cpu": 0.5, "image": "a:1"}
    assert request.memory == 2**30
    assert make_request("t", {}).container == {}
    again = TrainRequest.from_json(json.loads(json.dumps(request.to_json())))
    assert again.container == request.container


@pytest.mark.parametrize("option", CONTAINER, ids=lambda o: o.name)
def test_what_a_parser_returns_it_takes_as_well(option):
    # Re-running a run gives the options of its request.
    texts = {
        "cpu": "500m", "gpus": "1", "image": "a", "env": "A=1", "context": "x", "volume": "a:/b",
        "tolerations": "a=b:NoSchedule", "secret": "a:/b", "storage": "none", "max_time": "1h",
        "pod_template": {"spec": {"a": 1}}, "image_pull_secret": "a",
    }  # fmt: skip
    mapping = option.name in ("node_selector", "labels", "annotations")
    value = option.parse(texts.get(option.name, "a=b" if mapping else "a"))
    assert option.parse(json.loads(json.dumps(value))) == value


def test_settings_may_hold_all_of_them(tmp_path, monkeypatch):
    monkeypatch.setenv("NBTRAIN_CONFIG", str(tmp_path / "config.toml"))
    config.update({"env": {"A": "1"}, "namespace": "ml", "cpu": "500m", "labels": "a=b,c=d"})
    expected = {"env": {"A": "1"}, "namespace": "ml", "cpu": 0.5, "labels": {"a": "b", "c": "d"}}
    assert config.defaults() == expected
    written = tomlkit.parse((tmp_path / "config.toml").read_text()).unwrap()
    assert make_request("t", written).container == expected
    assert all(BY_NAME[o.name].config for o in CONTAINER)


_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(),
    st.lists(st.text() | st.integers()), st.dictionaries(st.text() | st.integers(), st.text()),
)  # fmt: skip


@given(st.sampled_from(CONTAINER), _VALUES)
def test_any_value_is_used_or_refused(option, value):
    with contextlib.suppress(OptionError):
        json.dumps(option.checked(value, option.name))


@given(st.from_regex(container_values._SUBDOMAIN, fullmatch=True))
def test_names_of_objects_are_those_that_kubernetes_takes(name):
    parse_name = container_values.object_name("Secret")
    if len(name) <= 253:
        assert parse_name(name) == name
