"""The magics in a real IPython shell; the training itself is a stand-in here."""

from __future__ import annotations

import inspect
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbtrain.training
from nbtrain import completion, magics
from nbtrain.cell import ROLES, bindings
from nbtrain.errors import NbtrainError, NoSuchRun, NotStarted, OptionError
from nbtrain.line import parse
from nbtrain.run import Run

from . import shells

FUNCTIONS = """
def model():
    return 1 / 0

def dataset():
    return [1], [2]
"""


class FakeRun(Run):
    """A run that has the parts of the handle that the magics use, and does nothing."""

    def __init__(self, name, id_=""):
        self.name, self.id = name, id_ or f"{name}-id"
        self.calls = []

    status = "stopped"

    def __repr__(self):
        return f"<run {self.id}>"

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/plain": repr(self)}

    def wait(self, timeout=None):
        self.calls.append("wait")
        return self

    def check(self):
        self.calls.append("check")
        return self

    def display(self):
        self.calls.append("display")

    def logs(self, worker=0):
        return f"log of worker {worker}\n"

    def follow_logs(self, worker=0):
        yield from ("one\n", "two\n")

    def stop(self, grace=120.0):
        self.calls.append(("stop", grace))
        return self

    def delete(self):
        self.calls.append("delete")


class Notebook:
    """A shell, what it showed, and what was trained."""

    def __init__(self, shell):
        self.shell, self.errors, self.trained, self.known = shell, [], [], []
        self.shell._showtraceback = lambda kind, value, lines: self.errors.append(
            (kind.__name__, "\n".join(map(str, lines)))
        )

    def train(self, model, dataset, validation=None, callbacks=None, **options):
        given = zip(ROLES, (model, dataset, validation, callbacks), strict=True)
        self.trained.append(({k: v for k, v in given if v is not None}, options))
        return FakeRun(options["name"])

    def cell(self, text):
        """Run a cell that succeeds, and return its value."""
        self.errors.clear()
        result = self.shell.run_cell(text, store_history=True)
        assert result.success, self.errors
        return result.result

    def fails(self, text):
        """Run a cell that does not succeed, and return the error's name and what is shown."""
        self.errors.clear()
        result = self.shell.run_cell(text, store_history=True)
        assert not result.success
        assert len(self.errors) == 1
        return self.errors[0]

    def says(self, text):
        """Run a cell that nbtrain refuses, and return the sentence."""
        before = len(self.trained)
        kind, shown = self.fails(text)
        assert "Traceback" not in shown
        assert len(self.trained) == before
        return shown.removeprefix(f"{kind}: ")

    @property
    def names(self):
        return self.shell.user_ns

    @property
    def options(self):
        return self.trained[-1][1]

    @property
    def functions(self):
        return self.trained[-1][0]


@pytest.fixture(scope="module")
def _shell(tmp_path_factory):
    with shells.shell(tmp_path_factory.mktemp("ipython")) as shell:
        yield shell


@pytest.fixture
def notebook(_shell, monkeypatch, tmp_path):
    monkeypatch.setenv("NBTRAIN_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("NBTRAIN_HOME", str(tmp_path / "home"))
    _shell.reset(new_session=False)
    made = Notebook(_shell)
    monkeypatch.setattr(nbtrain.training, "train", made.train)
    monkeypatch.setattr(nbtrain.training, "warm_up_in_background", lambda: None)
    monkeypatch.setattr("nbtrain.run.runs", lambda: made.known)
    made.cell("%load_ext nbtrain")
    yield made
    magics.unload(_shell)
    _shell.extension_manager.loaded.discard("nbtrain")
    del _shell._showtraceback


# -- the cell trains ------------------------------------------------------------------------------


def test_a_cell_trains_and_binds_the_run(notebook):
    value = notebook.cell("%%k8s_train --workers 3 --name digits\n" + FUNCTIONS)
    assert value is None
    assert notebook.options == {"name": "digits", "workers": 3}
    assert notebook.functions == {
        "model": notebook.names["model"],
        "dataset": notebook.names["dataset"],
    }
    assert isinstance(notebook.names["digits"], Run)
    assert notebook.names["digits"].calls == []


def test_the_name_is_training_if_none_is_given(notebook):
    notebook.cell("%%k8s_train\n" + FUNCTIONS)
    assert isinstance(notebook.names["training"], Run)


def test_with_wait_the_run_is_bound_first_and_then_waited_for(notebook):
    seen = []
    wait = FakeRun.wait

    def noting(run):
        seen.append(notebook.names.get("digits") is run)
        return run

    FakeRun.wait = noting
    try:
        notebook.cell("%%k8s_train --wait --name digits\n" + FUNCTIONS)
    finally:
        FakeRun.wait = wait
    assert seen == [True]
    # A run that failed has to stop "Run all".
    assert notebook.names["digits"].calls == ["check"]


def test_all_options_reach_train_by_its_names(notebook):
    notebook.cell(
        "%%k8s_train --from other --with-optimizer --replace --files a b --no-shuffle"
        " --checkpoint-every 30s --name d\n" + FUNCTIONS
    )
    assert notebook.options == {
        "name": "d",
        "from_run": "other",
        "with_optimizer": True,
        "replace": True,
        "files": ("a", "b"),
        "shuffle": False,
        "checkpoint_every": 30.0,
    }


#: `nbtrain.training.export` does what these ask for.
_FOR_EXPORT = ("export", "dry_run")


def test_every_option_of_the_cell_is_a_keyword_of_train_or_of_the_request():
    import ast
    from pathlib import Path

    from nbtrain.line import CELL
    from nbtrain.request import make_request

    tree = ast.parse(Path(nbtrain.training.__file__).read_text())
    train = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "train")
    keywords = {a.arg for a in (*train.args.args, *train.args.kwonlyargs)}
    for option in CELL:
        if not (option.field or option.fit or option.container or option.name in _FOR_EXPORT):
            assert option.name in keywords
    make_request("t", {o.name: None for o in CELL if o.field or o.fit})


# -- notebook variables ---------------------------------------------------------------------------


def test_notebook_variables_are_put_in(notebook):
    notebook.cell("n, w, d, weights = 5, 3, {'a b': 7}, {0: 1.0, 1: 2.0}")
    notebook.cell(
        "%%k8s_train --epochs {n * 2} --workers $w --seed={d['a b']} --name run_{n}"
        " --class-weight {weights}\n" + FUNCTIONS
    )
    assert notebook.options == {
        "epochs": 10,
        "workers": 3,
        "seed": 7,
        "name": "run_5",
        "class_weight": {0: 1.0, 1: 2.0},
    }


def test_class_weight_may_be_written_out_or_be_a_variable(notebook):
    notebook.cell("weights = {0: 1.0, 1: 2.0}\nn = 4")
    for written in ("weights", "{0: 1.0, 1: 2}", "'{0: 1.0, 1: 2}'", "$weights"):
        notebook.cell(f"%%k8s_train --class-weight {written} --epochs {{n}}\n" + FUNCTIONS)
        assert notebook.options["class_weight"] == {0: 1.0, 1: 2.0}
        assert notebook.options["epochs"] == 4


def test_files_may_be_a_list_of_the_notebook(notebook):
    notebook.cell("paths = ['a b', 'c']")
    notebook.cell("%%k8s_train --files {paths} d\n" + FUNCTIONS)
    assert notebook.options["files"] == ("a b", "c", "d")


def test_several_options_may_come_from_one_variable(notebook):
    notebook.cell("common = '--epochs 5 --workers 1'")
    notebook.cell("%%k8s_train {common} --seed 3\n" + FUNCTIONS)
    assert notebook.options["epochs"] == 5
    assert notebook.options["seed"] == 3


def test_a_variable_that_is_not_there_is_named(notebook):
    notebook.cell("number = 5")
    said = notebook.says("%%k8s_train --epochs {nmber}\n" + FUNCTIONS)
    assert said == ("--epochs {nmber}: the notebook has no variable nmber; did you mean number?")
    said = notebook.says("%%k8s_train --epochs {1/0}\n" + FUNCTIONS)
    assert said == "--epochs {1/0}: ZeroDivisionError: division by zero"


@given(st.text(st.sampled_from("{}$'\"abc0 :.,[]()!=-#\\"), max_size=30))
def test_any_text_is_expanded_or_refused(text):
    try:
        parse(text, expand=lambda word: magics.expand(word, {"a": 1, "b": "--seed 3"}))
    except OptionError as error:
        said = str(error)
    else:
        return
    assert said


# -- the body -------------------------------------------------------------------------------------


def test_the_body_runs_in_the_notebook_with_ipythons_syntax(notebook, capsys):
    notebook.cell("x = 1")
    notebook.cell("%%k8s_train\n!echo got {x}\ny = x + 1\n%time z = 3\n" + FUNCTIONS)
    assert notebook.names["y"] == 2
    assert notebook.names["z"] == 3


def test_sources_and_line_numbers_are_those_of_the_notebook(notebook):
    notebook.cell("%%k8s_train --epochs 2\n\n" + FUNCTIONS.lstrip())
    model = notebook.names["model"]
    assert model.__code__.co_firstlineno == 3
    assert inspect.getsource(model) == "def model():\n    return 1 / 0\n"
    kind, shown = notebook.fails("model()")
    assert kind == "ZeroDivisionError"
    assert "----> 4     return 1 / 0" in shown


def test_empty_lines_above_the_magic_are_counted(notebook):
    notebook.cell("\n\n%%k8s_train --epochs 2\n" + FUNCTIONS.lstrip())
    assert notebook.names["model"].__code__.co_firstlineno == 4


def test_an_error_in_the_body_shows_the_users_own_frames_and_starts_nothing(notebook):
    kind, shown = notebook.fails("%%k8s_train\n" + FUNCTIONS + "\nmodel()\n")
    assert kind == "ZeroDivisionError"
    assert shown.count("Traceback") == 1
    assert "--> 9 model()" in shown
    assert "in model()" in shown
    assert "nbtrain" not in shown
    assert "interactiveshell" not in shown
    assert notebook.trained == []
    assert "training" not in notebook.names


def test_an_interrupt_in_the_body_starts_nothing(notebook):
    kind, _ = notebook.fails("%%k8s_train\n" + FUNCTIONS + "raise KeyboardInterrupt\n")
    assert kind == "KeyboardInterrupt"
    assert notebook.trained == []


def test_a_syntax_error_looks_as_ipython_shows_it(notebook):
    _, shown = notebook.fails("%%k8s_train --epochs 3\nx = 1\ndef model(:\n    pass\n")
    assert "line 3" in shown
    assert "SyntaxError: invalid syntax" in shown
    assert "nbtrain" not in shown
    _, shown = notebook.fails("%%k8s_train\nx = 1\nawait y\n")
    assert "SyntaxError" in shown


def test_a_module_with_a_syntax_error_shows_no_frames_of_nbtrain(notebook, tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    _, shown = notebook.fails("%%k8s_train\nx = 1\nimport broken_module\n" + FUNCTIONS)
    assert "broken_module.py" in shown
    assert "SyntaxError" in shown
    assert "magics.py" not in shown


def test_future_imports_of_the_notebook_count(notebook):
    notebook.cell("from __future__ import annotations")
    notebook.cell("%%k8s_train\ndef f(x: nonsense): pass\n" + FUNCTIONS)
    notebook.shell.compile.reset_compiler_flags()


def test_the_body_sees_the_same_namespace_as_any_cell(notebook):
    notebook.cell(
        "%%k8s_train\nsame = locals() is globals() is get_ipython().user_ns\n" + FUNCTIONS
    )
    assert notebook.names["same"]


# -- the functions --------------------------------------------------------------------------------


def test_what_an_earlier_cell_left_does_not_slip_in(notebook):
    notebook.cell("def validation(): pass\ncallbacks = [1]")
    notebook.cell("%%k8s_train\n" + FUNCTIONS)
    assert set(notebook.functions) == {"model", "dataset"}


def test_what_a_branch_did_not_bind_does_not_slip_in(notebook):
    cell = "%%k8s_train\nif check:\n    def validation(): pass\n" + FUNCTIONS
    notebook.cell("check = True")
    notebook.cell(cell)
    assert "validation" in notebook.functions
    notebook.cell(cell)
    assert "validation" in notebook.functions
    notebook.cell("check = False")
    notebook.cell(cell)
    assert "validation" not in notebook.functions


@pytest.mark.parametrize(
    "statement",
    [
        "from posixpath import join as model",
        "model = abs",
        "model: object = abs",
        "model, other = abs, 1",
        "(model := abs)",
        "[model := abs for _ in range(1)]",
        "for model in [abs]: pass",
        "try:\n    model = abs\nfinally: pass",
        "if True:\n    from posixpath import join as model",
        "globals()['model'] = abs",
        "exec('model = abs')",
        "from nbtrain_star import *",
        "match abs:\n    case model: pass",
    ],
)
@pytest.mark.parametrize("again", [False, True])
def test_every_way_to_bind_a_function_counts(notebook, statement, again, tmp_path, monkeypatch):
    (tmp_path / "nbtrain_star.py").write_text("model = abs\n")
    monkeypatch.syspath_prepend(tmp_path)
    cell = f"%%k8s_train --replace\ndef dataset(): pass\n{statement}\n"
    notebook.cell(cell)
    if again and "globals" not in statement and "exec" not in statement:
        notebook.cell(cell)
    assert callable(notebook.functions["model"])


def test_a_name_that_the_cell_deletes_does_not_count(notebook):
    said = notebook.says("%%k8s_train\n" + FUNCTIONS + "del model\n")
    assert said.startswith("the cell has no function `model`")


def test_options_name_other_functions(notebook):
    notebook.cell("def build(): pass\nimport types\nlib = types.SimpleNamespace(load=abs)")
    notebook.cell("%%k8s_train --model build --dataset lib.load\nx = 1")
    assert notebook.functions == {"model": notebook.names["build"], "dataset": abs}


def test_without_a_body_functions_of_earlier_cells_train(notebook):
    notebook.cell(FUNCTIONS)
    for cell in ("%%k8s_train", "%k8s_train"):
        notebook.cell(f"{cell} --model model --dataset dataset --epochs 3")
        assert notebook.options["epochs"] == 3


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("def dataset(): pass", "the cell has no function `model`"),
        ("def model(): pass", "the cell has no function `dataset`"),
        ("def Model(): pass", "the cell has no `model` but has `Model`; rename it, or add"
         " --model Model"),
        ("def build_model(): pass", "the cell has no `model` but has `build_model`"),
        ("def make_net(): pass", "the cell has no `model` but has `make_net`"),
        ("from keras_like import Model\nmodel_path = 1\ndef dataset(): pass", "the cell has no"
         " function `model`"),
        ("model = abs\ndatasets = 1", "the cell has no `dataset` but has `datasets`"),
        ("model = abs\ndef train_data(): pass", "the cell has no `dataset` but has `train_data`"),
        ("model = abs\ndef load_digits(): pass", "the cell has no `dataset` but has"
         " `load_digits`; rename it, or add --dataset load_digits"),
    ],
)  # fmt: skip
def test_a_missing_function_is_answered_with_the_fix(notebook, body, sentence):
    assert notebook.says("%%k8s_train\n" + body).startswith(sentence)


def test_a_missing_function_is_found_before_the_body_is_run(notebook):
    notebook.says("%%k8s_train\nran = True\ndef model(): pass\n")
    assert "ran" not in notebook.names


def test_a_similar_function_of_an_earlier_cell_is_named(notebook):
    notebook.cell("def build_model(): pass\nfrom types import ModuleType as Model")
    said = notebook.says("%%k8s_train\ndef dataset(): pass")
    assert said == (
        "the cell has no `model`; an earlier one has `build_model`: add --model build_model to"
        " use it"
    )


def test_a_function_of_an_earlier_cell_is_named_with_the_option(notebook):
    notebook.cell(FUNCTIONS)
    said = notebook.says("%%k8s_train\ndef dataset(): pass")
    assert said == "`model` is defined in an earlier cell; add --model model to use it"


def test_a_name_that_is_not_there_is_answered_with_the_nearest(notebook):
    notebook.cell("def build_model(): pass")
    said = notebook.says("%%k8s_train --model buld_model\ndef dataset(): pass")
    assert said == "--model buld_model: the notebook has no buld_model; did you mean build_model?"
    assert "must be the name" in notebook.says("%%k8s_train --model f(3)\ndef dataset(): pass")


def test_a_keras_model_is_refused_with_the_way_to_wrap_it(notebook):
    notebook.cell("class Net:\n    trainable_weights = []")
    said = notebook.says("%%k8s_train\nmodel = Net()\ndef dataset(): pass")
    assert said.startswith("`model` is a Keras model; give a function that makes one")
    assert "def model():" in said
    assert "is a class" in notebook.says("%%k8s_train --model Net\ndef dataset(): pass")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("async def model(): pass\ndataset = [1]", "`model` is an async function"),
        ("model = 3\ndataset = [1]", "`model` is of type int"),
        ("model = abs\ndataset = 'a.csv'", "`dataset` is of type str; give a function"),
        ("model = abs\ndataset = [1]\ncallbacks = 3", "`callbacks` is of type int"),
    ],
)
def test_what_cannot_be_a_function_of_the_cell_is_refused(notebook, body, sentence):
    assert notebook.says("%%k8s_train\n" + body).startswith(sentence)


def test_bindings_are_those_of_the_top_level_alone():
    import ast

    found = bindings(
        ast.parse(
            textwrap.dedent("""
                import a.b, c as d
                def e(f=(g := 1)): h = 1
                class I: j = 2
                with open("x") as k: l = 3
                m = [n for n in o] + [(p := 1) for q in r]
                s = lambda t: t
                del u
            """)
        )
    )
    assert found.names == {"a", "d", "e", "I", "k", "l", "m", "p", "s"}
    assert found.maybe == set()
    assert not found.dynamic


# -- the name -------------------------------------------------------------------------------------


def test_a_variable_that_is_no_run_is_not_overwritten(notebook):
    notebook.cell("digits = [1, 2]")
    said = notebook.says("%%k8s_train --name digits\nran = True\n" + FUNCTIONS)
    assert said.startswith("`digits` is a variable of the notebook already (of type list)")
    assert "ran" not in notebook.names
    assert notebook.names["digits"] == [1, 2]


def test_a_run_is_replaced_by_the_next_of_its_name(notebook):
    cell = "%%k8s_train --name digits\n" + FUNCTIONS
    notebook.cell(cell)
    first = notebook.names["digits"]
    notebook.cell(cell)
    assert notebook.names["digits"] is not first


def test_a_name_that_the_cell_binds_itself_is_refused(notebook):
    said = notebook.says("%%k8s_train --name model\n" + FUNCTIONS)
    assert said == "--name model: the cell itself defines `model`; take another name for the run"
    assert "Python's own" in notebook.says("%%k8s_train --name list\n" + FUNCTIONS)
    assert "variable of the notebook" in notebook.says("%%k8s_train --name In\n" + FUNCTIONS)


def test_with_optimizer_needs_a_run_to_begin_with(notebook):
    assert "--from RUN" in notebook.says("%%k8s_train --with-optimizer\n" + FUNCTIONS)


# -- how errors and help look ---------------------------------------------------------------------


def test_a_mistake_shows_one_sentence_and_no_traceback(notebook, capsys):
    del notebook.shell._showtraceback
    notebook.shell.run_cell("%%k8s_train --epocs 3\n" + FUNCTIONS)
    shown = capsys.readouterr()
    assert (shown.out + shown.err).strip() == (
        "OptionError: --epocs: no such option; did you mean --epochs?"
    )
    notebook.shell._showtraceback = lambda *_: None


def test_help_is_shown_in_three_ways(notebook, capsys, monkeypatch):
    notebook.cell("%%k8s_train --help")
    printed = capsys.readouterr().out
    notebook.cell("%%k8s_train --help\nran = True")
    assert capsys.readouterr().out == printed
    assert "ran" not in notebook.names
    bundle = notebook.shell.object_inspect_mime("%%k8s_train")
    assert printed.strip()[:300] in bundle["text/plain"]


def test_help_has_every_option_and_fits_a_screen():
    from nbtrain.line import CELL

    text = completion.help_text()
    assert all(f"\n{option.dashed}" in text for option in CELL)
    assert max(map(len, text.splitlines())) < 100


def test_the_example_of_the_help_is_python():
    text = completion.help_text()
    example = text[text.index("def model()") : text.index("The result")]
    compile(example, "help", "exec")


# -- the line magics ------------------------------------------------------------------------------


def test_runs_is_a_value(notebook):
    notebook.known.append(FakeRun("digits"))
    assert notebook.cell("%k8s_runs") is notebook.known
    notebook.cell("table = %k8s_runs")
    assert notebook.names["table"] is notebook.known


def test_logs_are_printed_and_followed(notebook, capsys):
    notebook.known.append(FakeRun("digits"))
    notebook.cell("%k8s_logs digits --worker 1")
    assert capsys.readouterr().out == "log of worker 1\n"
    notebook.cell("%k8s_logs digits --follow")
    assert capsys.readouterr().out == "one\ntwo\n"


def test_a_run_that_is_still_being_started_is_followed(notebook, capsys, monkeypatch):
    def logs(run, worker=0):
        raise NotStarted("digits is still being started: it has no files yet")

    monkeypatch.setattr(FakeRun, "logs", logs)
    notebook.known.append(FakeRun("digits"))
    notebook.cell("%k8s_logs digits --follow")
    assert capsys.readouterr().out == "one\ntwo\n"


def test_the_newest_run_of_a_name_is_meant_or_the_one_of_an_id(notebook):
    newest, oldest = FakeRun("digits", "b"), FakeRun("digits", "a")
    notebook.known += [newest, oldest]
    notebook.cell("%k8s_stop digits")
    notebook.cell("%k8s_stop a --now")
    assert newest.calls == [("stop", 120.0)]
    assert oldest.calls == [("stop", 0)]


def test_deleting_a_run_removes_its_variable(notebook, capsys):
    notebook.known += [FakeRun("digits", "b"), FakeRun("digits", "a")]
    notebook.names["digits"] = notebook.known[0]
    notebook.cell("%k8s_delete a")
    assert "digits" in notebook.names
    notebook.cell("%k8s_delete digits")
    assert "digits" not in notebook.names
    assert capsys.readouterr().out == "a: deleted\nb: deleted\n"


def test_attach_binds_the_run_and_shows_it(notebook, monkeypatch):
    run = FakeRun("digits")
    monkeypatch.setattr("nbtrain.run.attach", {"digits": run}.__getitem__)
    notebook.cell("%k8s_attach digits")
    assert notebook.names["digits"] is run
    assert run.calls == ["display"]
    notebook.cell("digits = 5")
    assert "a variable of the notebook already" in notebook.says("%k8s_attach digits")


def test_a_run_that_is_not_there_is_said(notebook, monkeypatch):
    def attach(name):
        raise NoSuchRun(f"no run named {name!r}")

    monkeypatch.setattr("nbtrain.run.attach", attach)
    for magic in ("k8s_logs", "k8s_stop", "k8s_delete", "k8s_attach"):
        assert notebook.says(f"%{magic} digts") == "no run named 'digts'"
        assert notebook.says(f"%{magic}").startswith(f"%{magic}: whose?")
        assert "takes one name" in notebook.says(f"%{magic} a b")


def test_config_shows_changes_and_removes(notebook, capsys):
    notebook.cell("n = 4")
    notebook.cell("%k8s_config workers={n} batch=128")
    shown = capsys.readouterr().out
    assert "config.toml" in shown
    from nbtrain import config

    assert config.defaults() == {"workers": 4, "batch": 128}
    notebook.cell("%k8s_config --unset workers batch")
    assert config.defaults() == {}
    assert "did you mean workers?" in notebook.says("%k8s_config wrkers=4")
    assert "written as in" in notebook.says("%k8s_config workers 4")
    assert "which setting" in notebook.says("%k8s_config --unset")


def test_where_config_names_a_context_a_name_has_to_be_free_on_that_cluster(notebook, monkeypatch):
    asked = []
    monkeypatch.setattr(
        nbtrain.training, "check_free", lambda name, where, **_: asked.append(where)
    )
    notebook.cell("%k8s_config context=production")
    notebook.cell("%%k8s_train\n" + FUNCTIONS)
    notebook.cell("%%k8s_train --backend local\n" + FUNCTIONS)
    assert asked == ["kubernetes", "local"]


def test_a_broken_config_is_said_before_the_body_runs(notebook, tmp_path):
    (tmp_path / "config.toml").write_text("workers = = 3")
    said = notebook.says("%%k8s_train\nran = True\n" + FUNCTIONS)
    assert "config.toml, line 1" in said
    assert "ran" not in notebook.names


# -- images ---------------------------------------------------------------------------------------


@pytest.fixture
def built(monkeypatch):
    """Stand in for builds and lists; return what was asked for."""
    made = []

    def build(packages, *, watch, **options):
        made.append((packages, options))
        return "nbtrain:1"

    monkeypatch.setattr("nbtrain.images.build", build)
    monkeypatch.setattr("nbtrain.images.images", list)
    return made


def test_an_image_is_built_from_a_line_with_variables(notebook, built, capsys):
    notebook.cell("name = 'mine:1'")
    notebook.cell("%k8s_image build scikit-learn -r requirements.txt --tag {name} --gpu")
    options = {"requirements": ["requirements.txt"], "tag": "mine:1", "gpu": True}
    assert built == [(["scikit-learn"], options)]
    assert "nbtrain:1 is built." in capsys.readouterr().out


def test_the_list_of_images_is_the_cells_value(notebook, built):
    assert "no image of nbtrain yet" in repr(notebook.cell("%k8s_image list"))


def test_images_are_documented_and_mistakes_answered(notebook, built, capsys):
    notebook.cell("%k8s_image")
    notebook.cell("%k8s_image push --help")
    assert capsys.readouterr().out.count("%k8s_image save [IMAGE] TARGET") == 2
    help_text = inspect.getdoc(notebook.shell.find_line_magic("k8s_image"))
    assert "-r" not in help_text or "--requirement FILE" in help_text
    assert notebook.says("%k8s_image biuld") == "image biuld: no such command; did you mean build?"
    assert "image push IMAGE" in notebook.says("%k8s_image push")
    assert "image load SOURCE" in notebook.says("%k8s_image load a b")
    assert "--tag" in notebook.says("%k8s_image build --tga x")
    assert built == []


def test_image_commands_and_their_options_are_completed(notebook):
    assert complete(notebook, "%k8s_image bu") == ("bu", ["build"])
    assert complete(notebook, "%k8s_image ")[1] == ["build", "push", "save", "load", "list"]
    assert complete(notebook, "%k8s_image build --t")[1] == ["--tag", "--trust-ca"]
    assert "--tag" not in complete(notebook, "%k8s_image build --tag x --")[1]


# -- completion -----------------------------------------------------------------------------------


def complete(notebook, line):
    with pytest.warns(PendingDeprecationWarning, match="Completer.complete"):  # IPython's own
        return notebook.shell.complete("", line, len(line))


def completions(notebook, text):
    import warnings

    from IPython.core.completer import provisionalcompleter

    with warnings.catch_warnings(), provisionalcompleter():
        warnings.simplefilter("ignore")
        return [c.text for c in notebook.shell.Completer.completions(text, len(text))]


def test_options_are_completed_in_both_ways_that_front_ends_ask(notebook):
    assert complete(notebook, "%%k8s_train --ep") == ("--ep", ["--epochs"])
    assert completions(notebook, "%%k8s_train --ep") == ["--epochs"]
    found = completions(notebook, "%%k8s_train --epochs 3 --")
    assert "--workers" in found
    assert "--epochs" not in found


def test_values_are_completed(notebook):
    notebook.cell("def build_model(): pass\nweights = {0: 1.0}\ntext = 'x'")
    notebook.known += [FakeRun("digits"), FakeRun("digits", "a"), FakeRun("other")]
    assert complete(notebook, "%%k8s_train --backend lo") == ("lo", ["local"])
    assert complete(notebook, "%%k8s_train --strategy=m") == ("m", ["multi-worker-mirrored"])
    assert complete(notebook, "%%k8s_train --model bu")[1] == ["build_model"]
    assert complete(notebook, "%%k8s_train --model ")[1] == ["build_model"]
    assert complete(notebook, "%%k8s_train --dataset ")[1] == ["build_model", "weights"]
    assert complete(notebook, "%%k8s_train --class-weight ")[1] == ["weights"]
    assert complete(notebook, "%%k8s_train --from ")[1] == ["digits", "other"]
    assert complete(notebook, "%k8s_logs di")[1] == ["digits"]
    assert complete(notebook, "%k8s_logs digits --f")[1] == ["--follow"]
    assert complete(notebook, "%k8s_config ba")[1] == ["batch=", "backend="]
    assert complete(notebook, "%k8s_config warm=a")[1] == ["auto"]


def test_functions_of_the_cell_itself_are_offered(notebook):
    cell = "%%k8s_train --model \ndef brand_new(): pass\n"
    line = cell.index("\n")
    completer = notebook.shell.Completer.custom_matchers[-1]
    from IPython.core.completer import CompletionContext

    context = CompletionContext(
        token="", full_text=cell, cursor_position=line, cursor_line=0, limit=100
    )
    assert [c.text for c in completer(context)["completions"]] == ["brand_new"]


def test_other_lines_are_completed_as_ever(notebook):
    notebook.cell("something_long = 1")
    assert completions(notebook, "%%k8s_train --epochs 3\nsomething_l") == ["something_long"]
    assert "%%k8s_train" in completions(notebook, "%%k8s_tr")


def test_completion_shows_no_error_where_runs_cannot_be_read(notebook, monkeypatch, capsys):
    def fails():
        raise OSError

    monkeypatch.setattr("nbtrain.run.runs", fails)
    complete(notebook, "%k8s_logs ")
    assert capsys.readouterr().err == ""


# -- loading --------------------------------------------------------------------------------------


def test_loading_twice_changes_nothing_and_unloading_removes_all(notebook):
    shell = notebook.shell
    magics.load(shell)
    matchers = len(shell.Completer.custom_matchers)
    transformers = len(shell.input_transformers_cleanup)
    magics.load(shell)
    assert len(shell.Completer.custom_matchers) == matchers
    assert len(shell.input_transformers_cleanup) == transformers
    magics.unload(shell)
    assert shell.find_cell_magic("k8s_train") is None
    assert shell.find_line_magic("k8s_runs") is None
    assert len(shell.Completer.custom_matchers) == matchers - 1
    assert len(shell.input_transformers_cleanup) == transformers - 1


def test_in_a_terminal_the_first_line_is_not_taken_for_the_whole_cell(notebook):
    assert notebook.shell.check_complete("%%k8s_train --epochs 3")[0] == "incomplete"


def test_loading_is_light(tmp_path, monkeypatch):
    (tmp_path / "config.toml").write_text("warm = false")
    monkeypatch.setenv("NBTRAIN_CONFIG", str(tmp_path / "config.toml"))
    code = """
        import sys
        from IPython.core.interactiveshell import InteractiveShell
        shell = InteractiveShell.instance()
        shell.run_line_magic("load_ext", "nbtrain")
        heavy = {"tensorflow", "keras", "kubernetes", "numpy", "pandas", "tomlkit", "rich"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_errors_are_nbtrains_own():
    from nbtrain.cell import CellSyntaxError

    assert issubclass(CellSyntaxError, NbtrainError)


# -- a real kernel --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    from jupyter_client.manager import KernelManager

    monkey = pytest.MonkeyPatch()
    home = tmp_path_factory.mktemp("kernel")
    monkey.setenv("IPYTHONDIR", str(home))
    monkey.setenv("NBTRAIN_HOME", str(home))
    monkey.setenv("NBTRAIN_CONFIG", str(home / "config.toml"))
    (home / "config.toml").write_text("warm = false")
    manager = KernelManager(kernel_name="python3")
    manager.kernel_cmd = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    run_there(client, "%load_ext nbtrain")
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    manager.cleanup_resources()
    monkey.undo()


def run_there(client, code):
    """Run a cell in the kernel, and return the reply and what was shown."""
    shown = []
    reply = client.execute_interactive(code, timeout=60, output_hook=shown.append)
    return reply["content"], "".join(
        m["content"].get("text", "") for m in shown if m["msg_type"] == "stream"
    )


def test_a_kernel_completes_options(client):
    code = "%%k8s_train --ep\ndef model(): pass\n"
    reply = client.complete(code, code.index("\n"), reply=True, timeout=60)["content"]
    assert reply["matches"] == ["--epochs"]
    assert code[reply["cursor_start"] : reply["cursor_end"]] == "--ep"


def test_a_kernel_ends_the_cell_with_one_sentence(client):
    reply, _ = run_there(client, "%%k8s_train --epocs 3\n" + FUNCTIONS)
    assert reply["status"] == "error"
    assert reply["ename"] == "OptionError"
    assert reply["traceback"] == ["OptionError: --epocs: no such option; did you mean --epochs?"]


def test_a_kernel_names_the_body_as_the_cell_and_its_debugger_do(client):
    code = "%%k8s_train\nmodel = dataset = lambda: 0\nraise ValueError('mine')\n"
    reply, _ = run_there(client, code)
    assert reply["ename"] == "ValueError"
    shown = "\n".join(reply["traceback"])
    assert "nbtrain" not in shown
    assert "mine" in shown
    check = f"""
        from ipykernel.compiler import get_file_name
        print(model.__code__.co_filename == get_file_name({code!r}), model.__code__.co_firstlineno)
    """
    assert run_there(client, textwrap.dedent(check))[1] == "True 2\n"
