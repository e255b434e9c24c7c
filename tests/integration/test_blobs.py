"""The blob store in a folder and in a bucket: the same behaviour, whole blobs only, and sentences where it is away."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from botocore.session import Session
from s3fs import S3FileSystem

from app.adapters.blobs import BlobStore, sha256_of
from app.domain.errors import ConflictError, CorruptDataError, NotFoundError, UnavailableError
from tests.object_store import CREDENTIALS, ObjectStore

LARGE = b"0123456789abcdef" * (17 << 16)  # 17 MB: more than one part of an upload
MISSING = sha256_of(b"never stored")


@pytest.fixture
def blobs(either_blobs: BlobStore) -> BlobStore:
    return either_blobs


@pytest.mark.parametrize("data", [b"", b"a picture", LARGE], ids=["empty", "small", "large"])
def test_what_is_put_comes_back_by_its_hash(blobs: BlobStore, data: bytes, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(data)
    digest = blobs.put_file(source)
    assert digest == blobs.put_file(source) == blobs.put(data) == sha256_of(data)
    assert blobs.exists(digest)
    assert blobs.get(digest) == data
    assert blobs.size(digest) == blobs.verify(digest) == len(data)
    blobs.download(digest, target)
    assert target.read_bytes() == data
    with blobs.open(digest) as stream:
        assert stream.read(5) == data[:5]
    assert list(blobs.names()) == [(digest, len(data))]


def test_names_are_all_blobs_and_nothing_else(blobs: BlobStore) -> None:
    assert list(blobs.names()) == []
    put = {blobs.put(str(n).encode()): len(str(n)) for n in range(20)}
    beside = blobs._path(next(iter(put))).rpartition("/")[0]
    blobs._fs.pipe_file(f"{beside}/notes.txt", b"of somebody else")
    assert dict(blobs.names()) == put
    for digest in put:
        blobs.delete(digest)
    assert list(blobs.names()) == []


def test_a_blob_that_is_not_there_is_said_to_be_missing(blobs: BlobStore, tmp_path: Path) -> None:
    reads: list[Callable[[str], object]] = [blobs.get, blobs.get_json, blobs.open, blobs.size, blobs.verify]
    for read in [*reads, lambda name: blobs.download(name, tmp_path / "x")]:
        with pytest.raises(NotFoundError, match=f"no blob {MISSING[:12]}"):
            read(MISSING)
        with pytest.raises(NotFoundError, match="not the name of a blob"):
            read("../../etc/passwd")
    assert not blobs.exists(MISSING)
    blobs.delete(MISSING)  # as it should be
    blobs.delete_if_older(MISSING, datetime.now(UTC))
    assert list(tmp_path.glob("*x*")) == []


def test_a_blob_with_another_hash_is_refused_wherever_it_is_checked(blobs: BlobStore, tmp_path: Path) -> None:
    digest = blobs.put(b"true")
    blobs._fs.pipe_file(blobs._path(digest), b"false")
    target = tmp_path / "target"
    for read in (blobs.get, blobs.get_json, blobs.verify, lambda name: blobs.download(name, target)):
        with pytest.raises(CorruptDataError, match="does not match its hash"):
            read(digest)
    assert list(tmp_path.glob("*target*")) == []


def test_only_what_was_not_stored_again_since_is_deleted_as_old(blobs: BlobStore) -> None:
    digest, now = blobs.put(b"kept for a while"), datetime.now(UTC)
    blobs.delete_if_older(digest, now - timedelta(hours=1))
    assert blobs.exists(digest)
    blobs.delete_if_older(digest, now + timedelta(hours=1))
    assert not blobs.exists(digest)


@pytest.mark.parametrize("data", [b"a little", LARGE], ids=["one part", "several parts"])
def test_an_upload_that_breaks_off_leaves_no_blob(blobs: BlobStore, object_store: ObjectStore, data: bytes) -> None:
    def broken() -> Iterator[bytes]:
        yield data
        raise OSError("the disk cannot be read")

    with pytest.raises(OSError, match="the disk cannot be read"):
        blobs._write(sha256_of(data), broken())
    assert not blobs.exists(sha256_of(data))
    assert list(blobs.names()) == []
    if blobs._is_bucket:
        assert object_store.uploads(blobs._root.partition("/")[0]) == 0, "what was sent is given up, and not paid for"


def test_a_file_that_changes_while_it_is_stored_is_refused(blobs: BlobStore) -> None:
    with pytest.raises(ConflictError, match="changed while it was being stored"):
        blobs._write(sha256_of(b"as it was"), iter([b"as it ", b"is"]))
    assert list(blobs.names()) == []


_DIES_HALFWAY = """
import sys
from app.adapters.blobs import BlobStore, sha256_of

blobs, part = BlobStore(sys.argv[1], endpoint_url=sys.argv[2] or None), bytes(17 << 20)

def chunks():
    yield part
    print("half", flush=True)
    sys.stdin.read()

blobs._write(sha256_of(part + b"end"), chunks())
"""


def test_a_process_killed_in_the_middle_of_an_upload_leaves_no_blob(
    blobs: BlobStore, object_store: ObjectStore
) -> None:
    data, endpoint = bytes(17 << 20) + b"end", object_store.url if blobs._is_bucket else ""
    digest = sha256_of(data)
    command = [sys.executable, "-c", _DIES_HALFWAY, blobs._fs.unstrip_protocol(blobs._root), endpoint]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        process.kill()
    if blobs._is_bucket:
        assert object_store.uploads(blobs._root.partition("/")[0]) == 1
    assert not blobs.exists(digest)
    assert list(blobs.names()) == []
    assert blobs.put(data) == digest
    assert blobs.verify(digest) == len(data)


def test_a_blob_that_another_host_stored_is_seen_at_once(bucket_blobs: BlobStore, object_store: ObjectStore) -> None:
    """Listing the store must leave nothing behind that later questions are answered from."""
    data = b"from another host"
    digest = sha256_of(data)
    neighbour = next(name for n in range(10_000) if (name := sha256_of(str(n).encode()))[:2] == digest[:2])
    object_store.put(bucket_blobs._path(neighbour), b"in the same folder")
    assert [name for name, _ in bucket_blobs.names()] == [neighbour]
    assert not bucket_blobs.exists(digest)
    object_store.put(bucket_blobs._path(digest), data)
    assert bucket_blobs.exists(digest)
    assert bucket_blobs.get(digest) == data
    assert bucket_blobs.size(digest) == len(data)
    assert dict(bucket_blobs.names())[digest] == len(data)


def every_use(blobs: BlobStore, tmp_path: Path) -> list[Callable[[], object]]:
    return [
        blobs.check,
        lambda: blobs.put(b"anything"),
        lambda: blobs.get(MISSING),
        lambda: blobs.open(MISSING),
        lambda: blobs.size(MISSING),
        lambda: blobs.verify(MISSING),
        lambda: blobs.download(MISSING, tmp_path / "x"),
        lambda: list(blobs.names()),
    ]


def test_an_endpoint_that_is_away_is_a_sentence(object_store: ObjectStore, tmp_path: Path) -> None:
    blobs = BlobStore("s3://bucket/prefix", endpoint_url="http://127.0.0.1:9")

    def refusal(use: Callable[[], object]) -> str:
        with pytest.raises(UnavailableError) as refused:
            use()
        return refused.value.detail

    uses = every_use(blobs, tmp_path)
    with ThreadPoolExecutor(len(uses)) as pool:  # each is repeated for a few seconds before it gives up
        for sentence in pool.map(refusal, uses):
            assert (
                "store s3://bucket/prefix at http://127.0.0.1:9 cannot be reached: check TASTEMAKER_BLOB_" in sentence
            )


def test_a_bucket_that_is_not_there_is_a_sentence_and_no_missing_blob(
    object_store: ObjectStore, tmp_path: Path
) -> None:
    blobs = BlobStore("s3://never-made/prefix", endpoint_url=object_store.url)
    for use in every_use(blobs, tmp_path):
        with pytest.raises(UnavailableError, match="there is no bucket 'never-made'"):
            use()


@pytest.fixture(scope="module")
def guarded_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ObjectStore, dict[str, str]]]:
    """A server that checks signatures and rights, and the credentials of the one user that it knows."""
    with ObjectStore(tmp_path_factory.mktemp("guarded"), {"INITIAL_NO_AUTH_ACTION_COUNT": "5"}) as store:
        key = _make_user(store.url)  # three calls; `store` has made the first, and makes the fifth
        store.put("guarded", b"")
        yield store, {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}


def _make_user(url: str) -> dict[str, str]:
    """A user who may do everything with buckets, and the key of that user."""
    iam = Session().create_client(
        "iam", region_name="us-east-1", endpoint_url=url, aws_access_key_id="x", aws_secret_access_key="x"
    )
    name, allowed = "tastemaker", {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    iam.create_user(UserName=name)
    document = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    iam.put_user_policy(UserName=name, PolicyName="blobs", PolicyDocument=document)
    key: dict[str, str] = iam.create_access_key(UserName=name)["AccessKey"]
    return key


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "refuses the credentials"),
        ({"AWS_ACCESS_KEY_ID": "unknown"}, "refuses the credentials"),
        ({"AWS_ACCESS_KEY_ID": ""}, "needs credentials and there are none: set AWS_ACCESS_KEY_ID"),
    ],
    ids=["secret", "key", "none"],
)
def test_wrong_credentials_are_a_sentence(
    guarded_store: tuple[ObjectStore, dict[str, str]],
    wrong: dict[str, str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    store, right = guarded_store

    def opened_with(credentials: dict[str, str]) -> BlobStore:
        for name, value in (CREDENTIALS | right | credentials).items():
            monkeypatch.setenv(name, value)
        S3FileSystem.clear_instance_cache()  # it remembers the first ones
        return BlobStore("s3://guarded/prefix", endpoint_url=store.url)

    opened_with({}).check()
    blobs = opened_with(wrong)
    for use in every_use(blobs, tmp_path):
        with pytest.raises(UnavailableError, match=f"The blob store s3://guarded/prefix at {store.url} {sentence}"):
            use()
