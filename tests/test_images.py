"""Images, without an engine: what fits, what is sent to the builder, what its words mean."""

from __future__ import annotations

import gc
import io
import json
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path

import pytest

from nbtrain import image_display, images
from nbtrain.errors import BackendError, ImageDoesNotFit, ImageError, OptionError
from nbtrain.images import base, context, fit, local
from nbtrain.images.client import _unreachable, explained
from nbtrain.images.progress import TAIL, Layer, Progress, fold, follow
from nbtrain.images.registry import _split

ROOT = Path(__file__).parent.parent
NOTEBOOK = {
    "nbtrain": "0.1.0",
    "python": "3.11.7",
    "tensorflow": "2.21.0",
    "keras": "3.15.1",
    "tf_keras": "2.21.0",
    "numpy": "2.4.6",
    "cloudpickle": "3.1.2",
}
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


# -- which image fits -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("python", "3.11.2"),
        ("tensorflow", "2.21.1"),
        ("keras", "3.15.0"),
        ("tf_keras", "2.21.3"),
        ("cloudpickle", "3.0.0"),
        ("numpy", "1.26.4"),
    ],
)
def test_another_patch_release_fits(package, version):
    assert fit.misfits(NOTEBOOK, {**NOTEBOOK, package: version}) == []


@pytest.mark.parametrize(
    ("package", "version", "said"),
    [
        ("python", "3.12.7", "Python 3.12.7, not 3.11 ("),
        ("python", "3.1", "Python 3.1, not 3.11 ("),
        ("tensorflow", "2.20.0", "TensorFlow 2.20.0, not 2.21 ("),
        ("keras", "3.14.2", "Keras 3.14.2, not 3.15 ("),
        ("tf_keras", "2.20.0", "tf_keras 2.20.0, not 2.21 ("),
        ("cloudpickle", "2.2.1", "cloudpickle 2.2.1, not 3 ("),
    ],
)
def test_another_minor_does_not_fit_and_the_reason_is_said(package, version, said):
    (reason,) = fit.misfits(NOTEBOOK, {**NOTEBOOK, package: version})
    assert reason.startswith(said)


def test_what_one_of_the_two_does_not_have_is_passed_over():
    without = {name: v for name, v in NOTEBOOK.items() if name != "tf_keras"}
    assert fit.misfits(NOTEBOOK, without) == []
    assert fit.misfits(without, NOTEBOOK) == []
    assert fit.misfits(NOTEBOOK, {}) == []


def test_what_the_labels_say_comes_back_from_them():
    labels = fit.labels(NOTEBOOK, "gpu")
    assert labels["io.nbtrain.variant"] == "gpu"
    assert fit.versions_in(labels, {}) == fit.carried(NOTEBOOK)
    assert fit.carried(NOTEBOOK)["python"] == "3.11"


def test_official_python_images_tell_their_version_too():
    assert fit.versions_in({}, {"PYTHON_VERSION": "3.9.1"}) == {"python": "3.9.1"}
    labels = {"io.nbtrain.python": "3.11"}
    assert fit.versions_in(labels, {"PYTHON_VERSION": "3.9.1"}) == {"python": "3.11"}


def test_the_default_name_tells_the_versions():
    assert fit.default_tag(NOTEBOOK) == "nbtrain:py3.11-tf2.21.0-keras3.15.1"
    assert fit.default_tag(NOTEBOOK, fit.GPU) == "nbtrain:py3.11-tf2.21.0-keras3.15.1-gpu"
    assert images.default_image().startswith("nbtrain:py")


def test_an_image_that_does_not_fit_is_refused_with_one_that_does():
    versions = {**NOTEBOOK, "python": "3.12.1", "keras": "3.14.0"}
    with pytest.raises(ImageDoesNotFit) as refused:
        images.check_fits("team/old:1", versions, notebook=NOTEBOOK, fitting="nbtrain:mine")
    said = str(refused.value)
    assert "team/old:1" in said
    assert "Python 3.12.1, not 3.11" in said
    assert "Keras 3.14.0, not 3.15" in said
    assert said.endswith("This one fits: nbtrain:mine")


def test_where_none_fits_the_command_that_builds_one_is_said():
    with pytest.raises(ImageDoesNotFit, match=r"nbtrain image build \(in a notebook: %k8s_image"):
        images.check_fits("old", {"python": "3.10"}, notebook=NOTEBOOK)
    assert fit.how_to_build("mine:1", NOTEBOOK) == (
        "nbtrain image build --tag mine:1 (in a notebook: %k8s_image build --tag mine:1)"
    )


def test_an_image_that_fits_or_says_nothing_passes():
    images.check_fits("any", {}, notebook=NOTEBOOK)
    images.check_fits("mine", NOTEBOOK, notebook=NOTEBOOK)


# -- what is sent to the builder ------------------------------------------------------------------


def sent(**wanted):
    return {
        name: data.decode()
        for name, data in context.files(context.Wanted(NOTEBOOK, **wanted)).items()
    }


def test_the_context_pins_the_notebooks_versions_and_tells_them_in_labels():
    files = sent()
    assert files["constraints.txt"].splitlines() == [
        "tensorflow==2.21.0",
        "keras==3.15.1",
        "tf_keras==2.21.0",
        "cloudpickle==3.1.2",
        "numpy==2.4.6",
        "tensorflow-cpu==2.21.0",
    ]
    assert json.loads(files["versions.json"]) == fit.carried(NOTEBOOK)
    last = files["Dockerfile"].splitlines()[-1]
    assert last.startswith('LABEL io.nbtrain.variant="cpu" io.nbtrain.python="3.11" ')
    assert files["no-deps.txt"] == "tf_keras\n"


@pytest.mark.parametrize(
    ("variant", "architecture", "tensorflow"),
    [
        ("cpu", "amd64", "tensorflow-cpu"),
        ("cpu", "arm64", "tensorflow"),
        ("gpu", "amd64", "tensorflow[and-cuda]"),
    ],
)
def test_the_wheel_is_the_smallest_that_the_engine_can_run(variant, architecture, tensorflow):
    files = sent(variant=variant, architecture=architecture)
    assert files["frameworks.txt"].splitlines()[0] == tensorflow


def test_an_image_without_tf_keras_promises_none():
    versions = {name: v for name, v in NOTEBOOK.items() if name != "tf_keras"}
    files = context.files(context.Wanted(versions))
    assert files["no-deps.txt"] == b""
    assert b"tf-keras" not in files["Dockerfile"].splitlines()[-1]


def test_requirements_are_packages_and_files_with_the_files_they_include(tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "base.txt").write_text("pandas>=2\n")
    (tmp_path / "requirements.txt").write_text("# mine\nscikit-learn==1.5\n-r more/base.txt\n")
    files = sent(packages=["tensorboard"], requirements=[tmp_path / "requirements.txt"])
    assert files["requirements.txt"].splitlines() == [
        "tensorboard",
        "# mine",
        "scikit-learn==1.5",
        "pandas>=2",
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-e .", "a path of this machine"),
        ("./wheels/mine.whl", "a path of this machine"),
        ("mine @ file:///home/me/mine", "a path of this machine"),
        ("-c pins.txt", "constraints file"),
        ("-r missing.txt", "No such file"),
        ("-r requirements.txt", "includes itself"),
        ("--extra-index-url https://me:secret@example.com/simple", "password"),
    ],
)
def test_a_requirement_that_does_not_belong_in_an_image_is_refused(tmp_path, line, said):
    path = tmp_path / "requirements.txt"
    path.write_text(line + "\n")
    with pytest.raises(OptionError, match=said):
        sent(requirements=[path])


def test_addresses_without_a_password_are_taken(tmp_path):
    lines = ["mine @ git+ssh://git@example.com/mine.git", "--extra-index-url https://u:${T}@x.y/"]
    assert sent(packages=lines)["requirements.txt"].splitlines() == lines


def test_certificates_are_sent_and_told_to_pip(tmp_path):
    bundle = tmp_path / "ca.pem"
    bundle.write_text(CERTIFICATE)
    wanted = context.Wanted(NOTEBOOK, ca_bundle=bundle, trust_ca=True, index_url="https://x.y/s")
    assert context.files(wanted)["ca.crt"].decode() == CERTIFICATE
    assert context.arguments(wanted) == {
        "PYTHON_IMAGE": "python:3.11-slim",
        "PIP_CERT": "/opt/nbtrain/ca.crt",
        "TRUST_CA": "yes",
        "PIP_INDEX_URL": "https://x.y/s",
    }


def test_without_certificates_pip_is_told_of_none():
    wanted = context.Wanted(NOTEBOOK, python_image="mine/python:3.11")
    assert context.files(wanted)["ca.crt"] == b""
    assert context.arguments(wanted) == {"PYTHON_IMAGE": "mine/python:3.11"}


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"ca_bundle": Path("/no/such.pem")}, "--ca-bundle /no/such.pem: No such file"),
        ({"ca_bundle": Path(__file__).with_name("__init__.py")}, "no certificate"),
        ({"trust_ca": True}, "--trust-ca: goes together with --ca-bundle"),
        ({"index_url": "https://me:secret@x.y/"}, "password"),
    ],
)
def test_wrong_certificates_and_addresses_are_refused(wanted, said):
    made = context.Wanted(NOTEBOOK, **wanted)
    with pytest.raises(OptionError, match=said):
        context.arguments(made), context.files(made)


def test_the_same_files_give_the_same_archive():
    first, second = (context.archive({"b": b"2", "a": b"1"}).read() for _ in range(2))
    assert first == second
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        assert tar.getnames() == ["a", "b"]


@pytest.mark.skipif(
    not (Path(sys.executable).parent / "hadolint").exists(),
    reason="hadolint has a wheel for Linux on x86_64 alone",
)
def test_the_dockerfile_has_nothing_that_a_linter_finds():
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run(
        [hadolint, "--no-color", ROOT / "base_image" / "Dockerfile"], capture_output=True, text=True
    )
    assert done.stdout == ""
    assert done.returncode == 0


def test_every_file_that_the_dockerfile_copies_is_sent():
    files = sent()
    copied = {
        word
        for line in files["Dockerfile"].splitlines()
        if line.startswith("COPY")
        for word in line.split()[1:-1]
    }
    assert copied == files.keys() - {"Dockerfile"}


# -- what the builder and the registries say ------------------------------------------------------

BUILD = [
    {"stream": "Step 1/3 : FROM python\n"},
    {"status": "Pulling from library/python", "id": "3.11-slim"},
    {"status": "Downloading", "progressDetail": {"current": 5, "total": 20}, "id": "aa"},
    {"status": "Downloading", "progressDetail": {"current": 20, "total": 20}, "id": "aa"},
    {"status": "Download complete", "progressDetail": {}, "id": "aa"},
    {"stream": " ---> 1f2e3d4c5b6a\n"},
    {"stream": "Step 2/3 : RUN pip install \\\n    keras\n"},
    {"stream": "Collecting keras\n"},
    {"stream": "\x1b[91mERROR: no such version\x1b[0m\n"},
]
PUSH = [
    {"status": "The push refers to repository [127.0.0.1:5000/x]"},
    {"status": "Preparing", "progressDetail": {}, "id": "aa"},
    {"status": "Layer already exists", "progressDetail": {}, "id": "bb"},
    {"status": "Pushing", "progressDetail": {"current": 600, "total": 1000}, "id": "aa"},
    {"status": "Pushed", "progressDetail": {}, "id": "aa"},
    {"progressDetail": {}, "aux": {"Tag": "1", "Digest": "sha256:0a", "Size": 7}},
]


def states(title, messages):
    told = []
    follow(title, messages, told.append)
    return told


def test_a_build_tells_its_steps_its_base_images_bytes_and_its_last_lines():
    told = states("building x", BUILD)
    assert told[3].layers == {"aa": Layer(done=5, total=20)}
    assert told[5].bytes == (20, 20)
    assert told[5].layers_finished == 1
    last = told[-1]
    assert (last.step, last.steps, last.doing) == (2, 3, "RUN pip install \\ keras")
    assert last.said == ("Collecting keras", "ERROR: no such version")
    assert last.layers == {}


def test_a_push_tells_layers_and_bytes_and_its_digest():
    told = states("pushing x", PUSH)
    assert told[4].bytes == (600, 1000)
    assert told[4].fraction == 0.6
    assert told[4].layers_finished == 1
    assert told[-1].digest == "sha256:0a"
    assert told[-1].layers_finished == 2
    assert told[-1].bytes == (1000, 1000)


def test_an_error_ends_it_with_the_engines_words():
    message = {"error": "short", "errorDetail": {"code": 1, "message": "the command failed"}}
    last = states("building x", [*BUILD, message])[-1]
    assert last.error == "the command failed"
    assert last.ended


def test_only_the_last_lines_of_a_step_are_kept_and_unknown_words_are_passed_over():
    many = [{"stream": f"line {i}\n"} for i in range(TAIL + 5)]
    last = states("x", [BUILD[0], *many, {"new": 1}, {"aux": None}, {"status": "Waiting"}])[-1]
    assert len(last.said) == TAIL
    assert last.said[-1] == f"line {TAIL + 4}"


def test_what_was_loaded_is_named():
    assert fold(Progress("x"), {"stream": "Loaded image: a/b:1\n"}).names == ("a/b:1",)
    assert fold(Progress("x"), {"stream": "Loaded image ID: sha256:0a\n"}).names == ("sha256:0a",)


def test_a_notebook_and_a_log_show_steps_layers_and_bytes():
    told = states("pushing x", PUSH)
    middle = told[4]
    assert image_display.text(middle, 3).splitlines() == [
        "pushing x  60%  1 of 2 layers, 600 B of 1.0 kB",
        "aa  60%  600 B of 1.0 kB",
    ]
    page = image_display.html(middle, 3)
    assert "width:60.0%" in page
    assert "1 of 2 layers" in page
    lines = [
        line
        for before, after in zip([None, *told], told, strict=False)
        for line in image_display.news(before, after, 3)
    ]
    assert lines == [
        "pushing x",
        "layer bb: there already",
        "layer aa: 1.0 kB",
        "pushing x: done in 3.0 s",
    ]


def test_a_build_shows_the_step_that_runs_and_what_it_says():
    build = states("building x", BUILD)[-2]
    assert image_display.saying(build) == "RUN pip install \\ keras · ERROR: no such version"
    assert "step 2 of 3" in image_display.text(build, 3)
    assert "<script" not in image_display.html(fold(build, {"stream": "<script>\n"}), 3)


def test_a_terminal_is_drawn_in_place(capsys):
    from rich.console import Console

    with image_display._Terminal() as terminal:
        for progress in states("pushing x", PUSH):
            terminal(progress)
            console = Console(width=100)
            with console.capture() as captured:
                console.print(terminal._drawn())
            assert "pushing x" in captured.get()
    assert "pushing x  100%  done in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("no basic auth credentials", "Log in with docker login r.example:5000"),
        ("unauthorized: authentication required", "r.example:5000 does not let you"),
        ("dial tcp: lookup r.example: no such host", "r.example:5000 is not known here"),
        ("dial tcp 1.2.3.4:5000: connect: connection refused", "nothing answers at r.example"),
        ("write /var/lib/x: no space left on device", "the engine's disk is full"),
        ("http: server gave HTTP response to HTTPS client", "insecure-registries"),
        ("x509: certificate signed by unknown authority", "certs.d/r.example:5000/ca.crt"),
        ("No such image: x", "the engine has no image r.example:5000/x:1"),
        ("invalid reference format", "can't be the name of an image"),
        ("something quite new\nand more", "push r.example:5000/x:1: something quite new"),
    ],
)
def test_what_the_engine_says_is_explained(said, expected):
    assert expected in str(explained("push", "r.example:5000/x:1", said))


def test_logging_in_to_the_public_registry_needs_no_name():
    fix = explained("push", "me/x", "denied: requested access to the resource is denied").fix
    assert fix.startswith("Log in with docker login,")


@pytest.mark.parametrize(
    ("image", "repository", "tag"),
    [
        ("a", "a", "latest"),
        ("a:1", "a", "1"),
        ("r:5000/a", "r:5000/a", "latest"),
        ("r:5000/a:1", "r:5000/a", "1"),
    ],
)
def test_a_port_is_no_tag(image, repository, tag):
    assert _split(image) == (repository, tag)


def failed(*said, step=13, error="returned a non-zero code: 1"):
    ended = Progress("x", step=step, steps=20, doing="RUN pip", said=said, error=error, ended=True)
    return base._failed("mine:1", ended, "python:3.11-slim")


@pytest.mark.parametrize(
    ("said", "fix"),
    [
        ("ERROR: ResolutionImpossible: for help visit", "pinned to this environment's versions"),
        ("SSLError(SSLCertVerificationError(1, 'self signed'))", "--ca-bundle FILE"),
        ("NewConnectionError: Temporary failure in name resolution", "--index-url URL"),
        ("OSError: [Errno 28] No space left on device", "docker system df"),
    ],
)
def test_a_step_that_failed_is_shown_with_its_last_lines_and_what_to_do(said, fix):
    error = failed("Collecting keras", said)
    assert error.message.splitlines() == [
        "build mine:1: step 13 of 20 failed: RUN pip",
        "  Collecting keras",
        f"  {said}",
        "returned a non-zero code: 1",
    ]
    assert fix in error.fix


def test_a_python_image_that_is_not_to_be_had_can_be_replaced():
    error = failed(step=2, error="Get https://x/v2/: dial tcp: lookup x: no such host")
    assert error.message == "build mine:1: pull python:3.11-slim: Docker Hub is not known here."
    assert "--python-image NAME" in error.fix


@pytest.mark.parametrize(
    ("gpu", "found"), [(False, "cpu:new"), (True, "gpu:new")], ids=["cpu", "gpu"]
)
def test_the_newest_image_of_the_kind_that_is_wanted_is_found(monkeypatch, gpu, found):
    names = ["gpu:new", "cpu:new", "gpu:old", "cpu:old"]
    made = [images.Image(n, n[:3], {}, 1, "2026-01-01 12:00") for n in names]
    monkeypatch.setattr(local, "images", lambda client: made)
    assert images.find_fitting(gpu=gpu) == found
    made.append(images.Image(images.default_image(gpu=gpu), n_variant(gpu), {}, 1, "2025"))
    assert images.find_fitting(gpu=gpu) == images.default_image(gpu=gpu)
    made[:] = [i for i in made if i.name == "gpu:old"]
    assert images.find_fitting(gpu=gpu) == "gpu:old"
    made.clear()
    assert images.find_fitting(gpu=gpu) is None


def n_variant(gpu):
    return "gpu" if gpu else "cpu"


# -- no engine ------------------------------------------------------------------------------------


def test_without_an_engine_it_is_said_how_to_get_one(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    # The SDK drops the socket that it could not connect, and does not close it.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        with pytest.raises(BackendError, match="No Docker engine answers") as refused:
            images.connect()
        fix = refused.value.fix
        del refused
        gc.collect()
    assert "DOCKER_HOST" in fix


def test_without_permission_it_is_said_how_to_get_it():
    error = _unreachable(OSError("PermissionError(13, 'Permission denied')"))
    assert "You may not use the Docker engine" in str(error)
    assert "usermod -aG docker" in error.fix


def test_versions_that_are_not_installed_can_not_be_pinned():
    class Engine:
        def version(self):
            return {"Arch": "amd64"}

    with pytest.raises(ImageError, match="keras and tensorflow: not installed here"):
        images.build(versions={"python": "3.11.7", "cloudpickle": "3"}, client=Engine())
