"""Saving and loading images: paths, an S3 server, and what is left when it breaks off."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from nbtrain import images
from nbtrain.errors import ImageError, OptionError
from nbtrain.images import archive

NAME = "nbtrain-test/small:1"
CONTENT = bytes(range(256)) * 40_000


class Engine:
    """Stands for the Docker SDK's client: one image, whose tar is `CONTENT`."""

    def __init__(self, fails_after=None):
        self.received = b""
        self.images = SimpleNamespace(get=lambda name: SimpleNamespace(attrs={"Size": 10_000_000}))
        self.api = SimpleNamespace(get_image=self._tar, load_image=self._load)
        self._fails_after = fails_after

    def _tar(self, name, chunk_size):
        assert name == NAME
        for number, start in enumerate(range(0, len(CONTENT), 1 << 20)):
            if number == self._fails_after:
                raise ConnectionResetError("the engine is gone")
            yield CONTENT[start : start + (1 << 20)]

    def _load(self, data, quiet):
        self.received = b"".join(data)
        if self.received == CONTENT:
            return [{"stream": f"Loaded image: {NAME}\n"}]
        return [{"errorDetail": {"message": "unexpected EOF"}, "error": "unexpected EOF"}]


def test_a_saved_image_is_loaded_under_its_name(tmp_path):
    target, told = tmp_path / "image.tar", []
    assert images.save(NAME, str(target), watch=told.append, client=Engine()) == len(CONTENT)
    assert target.read_bytes() == CONTENT
    assert target.stat().st_mode & 0o777 == 0o644
    assert [p.done for p in told] == sorted(p.done for p in told)
    assert told[-1].fraction == 1.0
    told.clear()
    engine = Engine()
    assert images.load(str(target), watch=told.append, client=engine) == (NAME,)
    assert engine.received == CONTENT
    assert told[-1].bytes == (len(CONTENT), len(CONTENT))


def test_a_save_that_breaks_off_leaves_what_was_there(tmp_path):
    target = tmp_path / "image.tar"
    target.write_bytes(b"the older one")
    with pytest.raises(ImageError, match="the engine is gone"):
        images.save(NAME, str(target), client=Engine(fails_after=3))
    assert [path.name for path in tmp_path.iterdir()] == ["image.tar"]
    assert target.read_bytes() == b"the older one"


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "image.tar").write_bytes(CONTENT[:1000])
    with pytest.raises(ImageError, match="not a whole image"):
        images.load(str(tmp_path / "image.tar"), client=Engine())


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("{}/none/image.tar", "there is no such folder"),
        ("{}", "is a folder"),
        ("nowhere://bucket/key", "Protocol not known: nowhere"),
    ],
)
def test_a_target_that_can_not_be_written_is_refused(tmp_path, place, said):
    with pytest.raises((ImageError, OptionError), match=said):
        images.save(NAME, place.format(tmp_path), client=Engine())
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ImageError, match="there is no such file"):
        images.load(str(tmp_path / "image.tar"), client=Engine())


def test_a_missing_package_for_a_store_is_named(monkeypatch):
    import fsspec

    def missing(url):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(ImageError, match=r"nbtrain\[s3\]"):
        images.save(NAME, "s3://bucket/image.tar", client=Engine())


# -- a real S3 server -----------------------------------------------------------------------------


@pytest.fixture(params=["one part", "several parts"])
def parts(request, monkeypatch):
    """Have s3fs send what it writes in one part, or in several as it does with big images."""
    import s3fs

    if request.param == "several parts":
        monkeypatch.setattr(s3fs.S3FileSystem, "default_block_size", 5 << 20)
        s3fs.S3FileSystem.clear_instance_cache()
    yield request.param
    s3fs.S3FileSystem.clear_instance_cache()


def test_an_image_goes_to_s3_and_back(s3, bucket, parts):
    url, told = f"s3://{bucket}/images/small.tar", []
    assert images.save(NAME, url, watch=told.append, client=Engine()) == len(CONTENT)
    stored = s3.get_object(Bucket=bucket, Key="images/small.tar")
    assert stored["Body"].read() == CONTENT
    # S3 marks what came in parts with their number.
    assert stored["ETag"].endswith('-1"') == (parts == "one part")
    assert told[-1].fraction == 1.0
    engine = Engine()
    assert images.load(url, client=engine) == (NAME,)
    assert engine.received == CONTENT


def test_an_upload_that_breaks_off_leaves_no_object_and_no_parts(s3, bucket, parts):
    with pytest.raises(ImageError, match="the engine is gone"):
        images.save(NAME, f"s3://{bucket}/small.tar", client=Engine(fails_after=7))
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)
    assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")


def test_an_upload_that_breaks_off_leaves_the_older_object(s3, bucket, parts):
    s3.put_object(Bucket=bucket, Key="small.tar", Body=b"the older one")
    with pytest.raises(ImageError):
        images.save(NAME, f"s3://{bucket}/small.tar", client=Engine(fails_after=7))
    stored = s3.get_object(Bucket=bucket, Key="small.tar")["Body"].read()
    assert stored == b"the older one"


def test_a_bucket_or_object_that_is_not_there_is_named(s3, bucket):
    with pytest.raises(ImageError, match="there is no such folder or bucket"):
        images.save(NAME, "s3://no-such-bucket-here/small.tar", client=Engine())
    with pytest.raises(ImageError, match="there is no such file"):
        images.load(f"s3://{bucket}/none.tar", client=Engine())


def test_only_urls_are_urls():
    assert archive._is_url("s3://bucket/key")
    assert not archive._is_url("C:image.tar")
    assert not archive._is_url("folder/image:1.tar")
