"""Options: from the cell's line or `train`'s keywords to a request."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nbtrain.errors import OptionError
from nbtrain.line import CELL, parse, words
from nbtrain.request import BY_NAME, GROUPS, OPTIONS, make_request
from nbtrain.runtime.request import TrainRequest


def says(call, *args, **keywords):
    with pytest.raises(OptionError) as caught:
        call(*args, **keywords)
    return str(caught.value)


def options(line):
    return parse(line).options


# -- the table ------------------------------------------------------------------------------------


def test_names_and_aliases_are_unique():
    names = [name for option in OPTIONS for name in (option.name, *option.aliases)]
    assert len(names) == len(set(names)) == len(BY_NAME)


def test_every_option_has_a_group_and_a_help_of_one_line():
    for option in OPTIONS:
        assert option.group in GROUPS
        assert option.help
        assert "\n" not in option.help
        assert option.flag or option.metavar or not option.cell


def test_built_in_defaults_are_those_of_the_request():
    request = TrainRequest(name="t", id="t", seed=1)
    defaults = {f.name for f in dataclasses.fields(TrainRequest)}
    for option in OPTIONS:
        assert not option.field or option.field in defaults
        if (isinstance(option.default, int | float) and option.field) or (
            option.field and option.name in ("backend", "strategy", "shard", "checkpoint_every")
        ):
            assert option.parse(option.default) == getattr(request, option.field)


def test_every_argument_of_keras_fit_is_taken_or_refused_by_name():
    import inspect

    import keras

    from nbtrain.request import REFUSED

    arguments = set(inspect.signature(keras.Model.fit).parameters) - {"self"}
    assert arguments <= set(BY_NAME) | set(REFUSED)
    assert {o.name for o in OPTIONS if o.fit} <= arguments


# -- the line -------------------------------------------------------------------------------------


def test_values_may_follow_a_space_or_an_equals_sign():
    assert options("--epochs 5 --workers=3 --name digits") == {
        "epochs": 5,
        "workers": 3,
        "name": "digits",
    }


def test_names_may_have_dashes_or_underscores():
    assert options("--steps_per_epoch 5") == options("--steps-per-epoch 5")


def test_batch_size_is_batch():
    assert options("--batch-size 64") == {"batch": 64}
    assert says(options, "--batch 32 --batch-size 64") == "--batch: given twice"


def test_what_follows_a_hash_is_a_comment():
    assert options("--epochs 5 # not --workers 7") == {"epochs": 5}
    assert options("--files a#b") == {"files": ("a#b",)}
    assert options("# nothing") == {}


def test_switches_take_no_value_and_can_be_switched_off():
    assert options("--shuffle") == options("--shuffle=yes") == {"shuffle": True}
    assert options("--no-shuffle") == options("--shuffle=off") == {"shuffle": False}
    assert options("--wait --replace") == {"wait": True, "replace": True}
    assert "true or false" in says(options, "--wait=maybe")


def test_files_takes_all_words_up_to_the_next_option():
    line = "--files data/ 'my labels.csv' --epochs 2 --files=more"
    assert options(line) == {"files": ("data/", "my labels.csv", "more"), "epochs": 2}


def test_from_names_a_run():
    assert options("--from digits --with-optimizer") == {
        "from_run": "digits",
        "with_optimizer": True,
    }


@pytest.mark.parametrize("text", ["{0: 1.0, 1: 5.0}", "'{0: 1.0, 1: 5.0}'", '"{0:1,1:5}"'])
def test_class_weight_is_a_dict_in_quotes_or_without(text):
    assert options(f"--class-weight {text}") == {"class_weight": {0: 1.0, 1: 5.0}}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--epocs 5", "--epocs: no such option; did you mean --epochs?"),
        ("--Epochs 5", "--Epochs: no such option; did you mean --epochs?"),
        ("--wokers 5", "--wokers: no such option; did you mean --workers?"),
        ("--replicas 5", "--replicas: no such option; did you mean --workers?"),
        ("-epochs 5", "-epochs: options have two dashes; did you mean --epochs?"),
        ("—epochs 5", "—epochs: options have two dashes; did you mean --epochs?"),
        ("--epochs five", "--epochs five: must be a whole number"),
        ("--epochs 5.0", "--epochs 5.0: must be a whole number"),
        ("--epochs 0", "--epochs 0: must be a whole number of at least 1"),
        ("--epochs -1", "--epochs -1: must be a whole number of at least 1"),
        ("--workers 65", "--workers 65: must be from 1 to 64"),
        ("--seed -1", "--seed -1: must be from 0 to 4294967295"),
        ("--seed 4294967296", "--seed 4294967296: must be from 0 to 4294967295"),
        ("--epochs", "--epochs: a value is missing, such as --epochs 1"),
        ("--epochs --workers 2", "--epochs: a value is missing, such as --epochs 1"),
        ("--epochs 1 --epochs 2", "--epochs: given twice"),
        ("--files", "--files: a value is missing"),
        ("--name 'a b", "'a b: a quote is opened and not closed"),
        ("--name for", "--name for: is a word of the Python language; take another name"),
        ("--epochs 5 \\", "the options of a magic stand on one line; remove the \\"),
        ("digits", "digits: k8s_train takes only options; did you mean --name digits?"),
        ("4", "4: k8s_train takes only options; did you mean --workers 4?"),
        ("epochs=4", "epochs=4: k8s_train takes only options; did you mean --epochs 4?"),
        ("epochs 4", "epochs: k8s_train takes only options; did you mean --epochs 4?"),
        ("--epochs 2 !", "!: k8s_train takes only options."),
        ("--x data", "--x: return the data from dataset()"),
        ("--loss mse", "--loss: belongs to model.compile(...), in model()"),
        ("--backend locl", "--backend locl: must be local or docker or kubernetes; did you mean"
         " local?"),
        ("--shard rows", "--shard rows: must be example or file"),
        ("--memory lots", "--memory lots: must be an amount of memory, such as 2Gi"),
        ("--checkpoint-every 100", "--checkpoint-every 100: must be epoch, a number of steps such"
         " as 100steps, or a time such as 5m"),
        ("--strategy TPUStrategy", "--strategy TPUStrategy: not supported yet"),
        ("--validation-split 1", "--validation-split 1: must be a number from 0 to below 1, such"
         " as 0.2"),
        ("--checkpoint-every week", "--checkpoint-every week: must be epoch, a number of steps"
         " such as 100steps, or a time such as 5m"),
        ("--stall-timeout 0", "--stall-timeout 0: must be a length of time, such as 30s, 5m or 1h"),
        ("--class-weight {0:-1}", "--class-weight {0:-1}: -1 is not a weight; weights are numbers"
         " of at least 0"),
        ("--keep 3", "--keep: no such option"),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_by_one_sentence(line, message):
    assert says(options, line).splitlines()[0] == message


def test_validation_data_is_refused_with_the_way_around():
    assert "--validation NAME" in says(options, "--validation-data (x, y)")


@pytest.mark.parametrize(
    "name", ["mirrored", "parameter-server", "tpu", "central-storage", "MirroredStrategy"]
)
def test_other_strategies_are_refused_by_name(name):
    assert "not supported" in says(options, f"--strategy {name}")


def test_the_strategy_may_be_written_as_its_class():
    line = "--strategy MultiWorkerMirroredStrategy"
    assert options(line) == {"strategy": "multi-worker-mirrored"}


def test_times_have_units():
    line = "--stall-timeout 1.5h --start-timeout 90 --checkpoint-every 5m"
    assert options(line) == {
        "stall_timeout": 5400.0,
        "start_timeout": 90.0,
        "checkpoint_every": 300.0,
    }


def test_braces_stay_one_word():
    assert words("--a {x['k y'] + 1} {b}") == ["--a", "{x['k y'] + 1}", "{b}"]


def test_a_word_that_is_a_variable_with_options_is_split():
    line = parse("$o --workers 3", expand=lambda t: "--epochs 2 --name a" if t == "$o" else t)
    assert line.options == {"epochs": 2, "name": "a", "workers": 3}


def test_a_value_that_came_from_a_variable_is_shown_in_the_error():
    message = says(parse, "--epochs {n}", expand=lambda t: 2.5 if t == "{n}" else t)
    assert message == "--epochs {n} (2.5): must be a whole number"


def test_none_from_a_variable_leaves_the_option_out():
    assert parse("--seed {s}", expand=lambda _: None).options["seed"] is None


_WORDS = st.sampled_from([o.dashed for o in CELL] + ["=", "'", '"', "{", "}", "#", "\\", "-", "5"])


@given(st.text())
@example("{}}")
@example("--class-weight {0:")
@example("--class-weight " + "[" * 5000)
@example("--epochs " + "9" * 5000)
def test_any_line_gives_options_or_an_option_error(line):
    with _only_option_errors():
        parse(line)


@given(st.lists(st.one_of(_WORDS, st.text(max_size=8))), st.sampled_from(["", " "]))
def test_any_mixture_of_options_gives_options_or_an_option_error(pieces, between):
    with _only_option_errors():
        parse(between.join(pieces))


@given(st.integers(1, 64), st.integers(1, 10**6), st.integers(0, 2**32 - 1))
def test_numbers_come_back_as_they_were_written(workers, epochs, seed):
    line = f"--workers {workers} --epochs={epochs} --seed '{seed}'"
    assert options(line) == {"workers": workers, "epochs": epochs, "seed": seed}


class _only_option_errors:  # noqa: N801
    def __enter__(self):
        return self

    def __exit__(self, kind, error, tb):
        if isinstance(error, OptionError):
            assert str(error)
            return True
        return False


# -- the request ----------------------------------------------------------------------------------


def test_a_request_has_the_defaults_and_a_seed_of_its_own():
    one, other = make_request("digits", {}), make_request("digits", {})
    assert (one.workers, one.epochs, one.batch, one.backend) == (2, 1, None, "local")
    assert one.seed != other.seed
    assert one.id != other.id
    assert re.fullmatch(r"digits-\d{8}-\d{6}-[a-z2-7]{4}", one.id)
    assert one.created > 0


def test_arguments_of_fit_are_kept_apart():
    request = make_request(
        "t", {"epochs": 3, "steps_per_epoch": 7, "batch_size": 8}, fit={"shuffle": False}
    )
    assert request.fit == {"steps_per_epoch": 7, "shuffle": False}
    assert (request.epochs, request.batch) == (3, 8)


def test_the_options_that_were_given_are_kept_and_give_the_same_request_again():
    options = {"epochs": 3, "class_weight": {0: 1, 1: 2}, "stall_timeout": "5m", "workers": None}
    request = make_request("t", options)
    again = json.loads(json.dumps(request.to_json()))["options"]
    assert "workers" not in again
    second = make_request("t", {**again, "seed": request.seed})
    assert second.fit == request.fit == {"class_weight": {0: 1.0, 1: 2.0}}
    assert second.stall_timeout_s == request.stall_timeout_s == 300.0


def test_numbers_of_numpy_are_numbers():
    request = make_request(
        "t",
        {"epochs": np.int64(3), "batch": np.uint8(5), "seed": np.int32(0)},
        fit={"validation_split": np.float32(0.25), "class_weight": {np.int64(1): np.float32(2)}},
    )
    assert (request.epochs, request.batch, request.seed) == (3, 5, 0)
    assert request.fit == {"validation_split": 0.25, "class_weight": {1: 2.0}}
    json.dumps(request.to_json())


@pytest.mark.parametrize("value", [True, np.True_, 2.0, "two", -1, 0, None, [2], 10**20])
def test_what_is_no_count_is_refused(value):
    if value is None:
        assert make_request("t", {"epochs": value}).epochs == 1
    else:
        assert says(make_request, "t", {"epochs": value}).startswith("epochs=")


@pytest.mark.parametrize(
    ("name", "says_so"),
    [
        ("for", "word of the Python language"),
        ("a b", "such as a_b"),
        ("größe", "letters, digits"),
        ("_a", "begin with a letter, such as a"),
        ("1st", "begin with a letter"),
        ("", "begin with a letter"),
        ("x" * 41, "40 characters"),
        (None, "begin with a letter"),
    ],
)
def test_a_name_must_be_fit_for_a_variable(name, says_so):
    assert says_so in says(make_request, name, {})


def test_a_mistyped_keyword_is_answered_in_pythons_words():
    assert says(make_request, "t", {"epocs": 3}) == "epocs: no such option; did you mean epochs?"
    assert says(make_request, "t", {"epochs": "x"}) == "epochs='x': must be a whole number"


def test_an_option_given_by_two_names_is_refused():
    assert "given twice" in says(make_request, "t", {"batch": 3, "batch_size": 4})


def test_beginning_after_the_last_epoch_is_refused():
    assert "nothing to train" in says(make_request, "t", {"epochs": 3, "initial_epoch": 3})


def test_validation_freq_is_a_number_or_a_list_of_epochs():
    assert options("--validation-freq 2") == {"validation_freq": 2}
    assert options("--validation-freq 1,5,10") == {"validation_freq": [1, 5, 10]}
    assert make_request("t", {"validation_freq": [1, 2]}).fit == {"validation_freq": [1, 2]}
    with pytest.raises(OptionError, match="list of epochs"):
        make_request("t", {"validation_freq": itertools.count(1)})
    assert "list of epochs" in says(options, "--validation-freq 1,x")


@given(st.dictionaries(st.sampled_from(sorted(BY_NAME)), st.from_type(type).flatmap(st.from_type)))
def test_any_value_gives_a_request_or_an_option_error(given_options):
    with _only_option_errors():
        json.dumps(make_request("t", given_options).to_json())


def test_no_more_workers_can_be_needed_than_there_are():
    with pytest.raises(OptionError, match="min_workers=3: there are only 2 workers"):
        make_request("t", {"workers": 2, "min_workers": 3})
