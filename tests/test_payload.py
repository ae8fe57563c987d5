"""The container: what is packed here is there in another process."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nbtrain.errors import OptionError
from nbtrain.payload import pack
from nbtrain.runtime.errors import Corrupt, Refused, VersionMismatch
from nbtrain.runtime.payload import ALIGN, MissingModule, Payload, call

from .payload_worker import Notebook, packed, worker


def test_functions_and_what_they_use_arrive_in_another_process(tmp_path: Path) -> None:
    notebook = Notebook(x=np.arange(20_000.0))(
        """
        scale = 3
        def load(): return x
        def dataset(batch): return load() * scale * batch
        def model(): return "m"
        """
    )
    payload = packed({"model": notebook["model"], "dataset": notebook["dataset"]}, tmp_path)
    result = worker(payload, "result = [f['model'](), call(f['dataset'], {'batch': 2}).sum()]")
    assert result == ["m", 6 * np.arange(20_000.0).sum()]
    assert payload.bytes == payload.path.stat().st_size
    assert payload.sha256 == hashlib.sha256(payload.path.read_bytes()).hexdigest()
    assert payload.code["model"] == 'def model(): return "m"\n'


def test_arrays_of_every_layout_arrive_as_they_are(tmp_path: Path) -> None:
    base = np.arange(120_000).reshape(300, 400)
    value = dict(  # noqa: C408
        strided=base[:, ::2],
        fortran=np.asfortranarray(base),
        transposed=base.T,
        negative=base[::-1, ::-1],
        objects=np.array(["a", None, 3], dtype=object),
        empty=np.zeros((0, 5), np.float32),
        scalar=np.float16(2.5),
        strings=np.array(["é", "b"] * 20_000),
        record=np.zeros(9000, [("a", "i4"), ("b", "f8")]),
        readonly=np.broadcast_to(base[0], (50, 400)),
        view=memoryview(base.astype("f4")),
        small=memoryview(b"abcdef")[::2],
        raw=b"\x00\xff" * 200_000,
        array=bytearray(b"x" * 100_000),
        nested={"a": [base, {"b": base[:3]}], 3: (base[0],)},
    )
    payload = packed({"dataset": value}, tmp_path)
    result = worker(
        payload,
        """
        import hashlib, numpy as np
        def digest(v):
            if isinstance(v, dict): return {str(k): digest(x) for k, x in v.items()}
            if isinstance(v, (list, tuple)): return [digest(x) for x in v]
            if isinstance(v, memoryview): return [v.format, list(v.shape), hash_(v.tobytes())]
            if isinstance(v, (bytes, bytearray)): return [type(v).__name__, hash_(bytes(v))]
            if v.dtype.hasobject: return v.tolist()
            return [v.dtype.str, list(v.shape), hash_(np.ascontiguousarray(v).tobytes())]
        def hash_(b): return hashlib.sha256(b).hexdigest()
        result = digest(f["dataset"])
        """,
    )
    assert result == _digest(value)


def _digest(v: Any) -> Any:
    def hash_(b: bytes) -> str:
        return hashlib.sha256(b).hexdigest()

    if isinstance(v, dict):
        return {str(k): _digest(x) for k, x in v.items()}
    if isinstance(v, (list, tuple)):
        return [_digest(x) for x in v]
    if isinstance(v, memoryview):
        return [v.format, list(v.shape), hash_(v.tobytes())]
    if isinstance(v, (bytes, bytearray)):
        return [type(v).__name__, hash_(bytes(v))]
    if v.dtype.hasobject:
        return v.tolist()
    return [v.dtype.str, list(v.shape), hash_(np.ascontiguousarray(v).tobytes())]


def test_arrays_are_shared_between_roles_and_writable_without_changing_the_file(
    tmp_path: Path,
) -> None:
    notebook = Notebook(x=np.zeros(50_000))(
        """
        def dataset(): return x
        def validation(): return x
        """
    )
    payload = packed({k: notebook[k] for k in ("dataset", "validation")}, tmp_path)
    result = worker(
        payload,
        """
        a, b = f["dataset"](), f["validation"]()
        a[0] = 7
        again = Payload.open(p.path)
        result = [a is b, b[0] == 7, again.load()["dataset"]()[0] == 0]
        result = [bool(r) for r in result]
        """,
    )
    assert result == [True, True, True]
    names = [s["name"] for s in Payload.open(payload.path).header["sections"]]
    assert names.count("buffer:0") == 1
    assert "buffer:1" not in names


def test_pandas_tables_arrive(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame(
        {
            "n": np.arange(30_000),
            "s": ["é", None, "c"] * 10_000,
            "c": pd.Categorical(["a", "b", "a"] * 10_000),
            "t": pd.date_range("2026-01-01", periods=30_000, freq="s", tz="Europe/Berlin"),
        }
    )
    notebook = Notebook(table=table)("def dataset(): return table, table['n'] * 2")
    payload = packed({"dataset": notebook["dataset"]}, tmp_path)
    result = worker(
        payload,
        """
        import pandas as pd
        t, y = f["dataset"]()
        t.loc[0, "n"] = 5
        result = [t.dtypes.astype(str).to_dict(), int(pd.util.hash_pandas_object(t).sum() % 1e9)]
        """,
    )
    table.loc[0, "n"] = 5
    digest = int(pd.util.hash_pandas_object(table).sum() % 1e9)
    assert result == [table.dtypes.astype(str).to_dict(), digest]
    found = next(c for c in payload.captured if c.variable == "table")
    assert found.bytes == table.memory_usage(deep=True).sum()
    assert found.what == "DataFrame (30000, 4)"


_leaves = st.one_of(
    st.none(),
    st.integers(),
    st.text(max_size=5),
    st.binary(max_size=40),
    hnp.arrays(
        st.sampled_from(["f4", "i8", "u1", "?", "c8", "M8[s]", "U3"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=40),
    ),
    st.integers(0, 9).map(lambda k: np.arange(90_000, dtype="u1").reshape(300, 300)[:, k::3]),
)
_structures = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=3), inner, max_size=4),
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_structures)
def test_any_nested_structure_of_arrays_comes_back(value: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        payload = packed({"dataset": value}, Path(folder))
        opened = Payload.open(payload.path)
        _assert_same(opened.load()["dataset"], value)


def _assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
        assert found.flags.writeable == expected.flags.writeable
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            _assert_same(found[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            _assert_same(a, b)
    else:
        assert found == expected


@pytest.fixture(scope="module")
def some_payload(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("damaged")
    return packed({"dataset": np.arange(30_000)}, folder).path.read_bytes()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_payload_cut_short_is_corrupt(some_payload: bytes, data: st.DataObject) -> None:
    end = data.draw(st.integers(0, len(some_payload) - 1))
    _assert_corrupt(some_payload[:end])


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_in_the_header_is_corrupt(some_payload: bytes, data: st.DataObject) -> None:
    length = int.from_bytes(some_payload[8:12], "little") + 16
    at, bit = data.draw(st.integers(0, length - 1)), data.draw(st.integers(0, 7))
    damaged = bytearray(some_payload)
    damaged[at] ^= 1 << bit
    _assert_corrupt(bytes(damaged))


def _assert_corrupt(content: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        with pytest.raises(Corrupt):
            Payload.open(file.name)


def test_something_else_is_no_payload(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"PK\x03\x04" * 100)
    with pytest.raises(Corrupt, match="is no payload"):
        Payload.open(tmp_path / "p")


def test_every_section_is_aligned_and_the_header_says_the_versions(
    tmp_path: Path, some_payload: bytes
) -> None:
    (tmp_path / "p").write_bytes(some_payload)
    header = Payload.open(tmp_path / "p").header
    assert all(s["offset"] % ALIGN == 0 for s in header["sections"])
    assert header["versions"]["python"] == sys.version.split()[0]
    assert {"tensorflow", "keras", "cloudpickle"} <= set(header["versions"])
    assert header["roles"] == ["dataset"]


def test_another_minor_version_of_python_is_refused_by_name(tmp_path: Path) -> None:
    payload = packed({"dataset": 1}, tmp_path)
    opened = Payload.open(payload.path)
    opened.header["versions"]["python"] = "3.9.1"
    with pytest.raises(VersionMismatch, match=r"Python 3\.9\.1.*Use workers with Python 3\.9\."):
        opened.load()


def test_nothing_is_left_behind_where_writing_fails(tmp_path: Path) -> None:
    class Full(Exception):
        pass

    def progress(done: int, total: int) -> None:
        if done > total // 2:
            raise Full

    with pytest.raises(Full):
        packed({"dataset": np.zeros(1 << 21)}, tmp_path, progress=progress)
    assert list(tmp_path.iterdir()) == []


def test_progress_ends_with_everything(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    payload = packed(
        {"dataset": np.zeros(1 << 21)}, tmp_path, progress=lambda *now: seen.append(now)
    )
    assert seen[-1] == (payload.bytes, payload.bytes)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_packing_takes_hardly_longer_than_one_write_and_one_hash(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random(25_000_000)
    ratios = []
    for _ in range(3):
        start = time.perf_counter()
        with (tmp_path / "plain").open("wb") as file:
            file.write(memoryview(x).cast("B"))
        hashlib.sha256(memoryview(x).cast("B")).hexdigest()
        plain = time.perf_counter() - start
        start = time.perf_counter()
        packed({"dataset": (x,)}, tmp_path)
        ratios.append((time.perf_counter() - start) / plain)
    assert min(ratios) < 1.5, ratios


# -- files ------------------------------------------------------------------------------------


def test_files_are_found_under_the_same_relative_paths(tmp_path: Path) -> None:
    folder = tmp_path / "notebooks"
    (folder / "data" / "deep").mkdir(parents=True)
    (folder / "data" / ".git").mkdir()
    (folder / "data" / ".git" / "x").write_text("no")
    (folder / "data" / "a.csv").write_text("1,2")
    (folder / "data" / "deep" / "b.bin").write_bytes(b"\x00" * 100_000)
    (folder / "more.csv").write_text("3")
    (folder / "x-1.txt").write_text("")
    payload = packed({"dataset": 1}, tmp_path, files=["data/", "more.csv", "x-*.txt"], cwd=folder)
    result = worker(
        payload,
        """
        result = [open("data/a.csv").read(), os.path.getsize("data/deep/b.bin"),
                  open("more.csv").read(), os.path.exists("data/.git"), sorted(p.files)]
        """,
    )
    assert result[:4] == ["1,2", 100_000, "3", False]
    assert result[4] == ["data/a.csv", "data/deep/b.bin", "more.csv", "x-1.txt"]


def test_a_missing_file_is_answered_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.csv").write_text("")
    with pytest.raises(OptionError, match=r"(?s)data/trian.csv.*Did you mean .*data/train\.csv"):
        packed({"dataset": 1}, tmp_path, files=["data/trian.csv"], cwd=tmp_path)
    with pytest.raises(OptionError, match="outside"):
        packed({"dataset": 1}, tmp_path, files=[".."], cwd=tmp_path / "data")


def test_a_path_that_leaves_scratch_is_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_text("")
    payload = packed({"dataset": 1}, tmp_path, files=["f.txt"], cwd=tmp_path)
    opened = Payload.open(payload.path)
    opened._sections["file:../../evil"] = memoryview(b"")
    with pytest.raises(Corrupt, match="leaves"):
        opened.install(tmp_path / "scratch")


# -- the environment ----------------------------------------------------------------------------


def test_environment_variables_of_tensorflow_and_keras_travel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_DETERMINISTIC_OPS", "1")
    monkeypatch.setenv("TF_CONFIG", "{}")
    monkeypatch.setenv("TF_NUM_INTEROP_THREADS", "3")
    monkeypatch.setenv("SECRET", "s")
    environment = Payload.open(packed({"dataset": 1}, tmp_path).path).header["environment"]
    assert environment["TF_DETERMINISTIC_OPS"] == "1"
    assert not {"TF_CONFIG", "TF_NUM_INTEROP_THREADS", "SECRET"} & set(environment)


def test_packing_imports_neither_tensorflow_nor_numpy(tmp_path: Path) -> None:
    program = f"""
import sys
from nbtrain.payload import pack, runtime_zip
def dataset(): return 1
runtime_zip()
packed = pack({{"dataset": dataset}}, {str(tmp_path / "p")!r})
assert packed.versions["tensorflow"], packed
heavy = {{"tensorflow", "keras", "numpy", "pandas", "kubernetes"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ)


# -- calling --------------------------------------------------------------------------------------


def test_call_passes_only_what_the_function_takes_by_name() -> None:
    offered = {"workers": 2, "worker": 1, "batch": 32}
    assert call(lambda: "none", offered) == "none"
    assert call(lambda batch: batch, offered) == 32

    def many(worker: int, /, batch: int = 0, other: int = 5, *a: int, **k: int) -> Any:
        return worker, batch, other, a, k

    assert call(many, offered) == (1, 32, 5, (), {})
    assert call((1, 2), offered) == (1, 2)
    assert call(dict, offered) == {}


def test_call_refuses_an_argument_that_nobody_offers() -> None:
    def dataset(shuffle: bool) -> None: ...

    with pytest.raises(Refused) as refused:
        call(dataset, {"workers": 2, "worker": 0, "batch": 8})
    text = str(refused.value)
    assert "dataset(shuffle)" in text
    assert "`workers`, `worker`, `batch`" in text


def test_a_module_that_the_worker_lacks_is_named(tmp_path: Path) -> None:
    (tmp_path / "gone_by_then.py").write_text("def f(): pass\n")
    sys.path.insert(0, str(tmp_path))
    try:
        import gone_by_then  # type: ignore[import-not-found]

        payload = packed({"dataset": gone_by_then.f}, tmp_path)
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("gone_by_then")
    opened = Payload.open(payload.path)  # and not installed: the module is not found
    with pytest.raises(MissingModule, match="gone_by_then") as missing:
        opened.load()
    assert missing.value.module == "gone_by_then"


def test_the_pickle_is_the_same_size_whatever_the_kernel_did_before(tmp_path: Path) -> None:
    first = packed({"dataset": 1}, tmp_path)
    assert json.dumps(Payload.open(first.path).header)
    assert pack({"dataset": 1}, tmp_path / "q").bytes == first.bytes
