"""Images, stores and files behind URLs, on an S3 server on the loopback."""

import asyncio
import http.server
import os
import pickle
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

import daskglm
from daskglm.errors import CorruptImageError, ImageError, OutputError, ParameterError, StorageError, StoreError
from daskglm.io import files, objects, zarr_stores
from daskglm.io.cache import file_states
from daskglm.io.nifti import read_values, stream_volumes, write_image
from daskglm.io.tables import read_table
from daskglm.io.urls import redacted

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
KEY_ID, SECRET = "AKIDNOBODY", "TheSecretOfNobody"


@pytest.fixture
def remote(cohort, bucket):
    """URLs of the cohort's images in the bucket."""
    return [bucket.upload(path, f"maps/{os.path.basename(path)}") for path in cohort.paths]


def _local(cohort, paths=None, **options):
    """The same images, converted on disk."""
    path = str(cohort.folder.parent / "local.zarr")
    daskglm.convert(paths or cohort.paths, path, **options)
    return daskglm.open_images(path)


def test_convert_append_and_fit_by_url(cohort, bucket):
    url = f"{bucket.url}/cohort.zarr"
    with pytest.raises(StoreError, match="no Zarr store at s3://"):
        daskglm.open_images(url)
    for stop in (5, 12):
        daskglm.convert(cohort.paths[:stop], url, mask=cohort.mask_img, participants=cohort.table.iloc[:stop])
    assert len(daskglm.convert(cohort.paths, url, participants=cohort.table, overwrite=True).written) == 12
    model = daskglm.SecondLevelModel().fit(url, formula="~ age + sex")
    truth = daskglm.SecondLevelModel(mask_img=cohort.mask_img).fit(cohort.paths, design_matrix=cohort.design)
    z, expected = (np.asarray(item.compute_contrast("age").dataobj) for item in (model, truth))
    assert np.allclose(z, expected, atol=1e-5)


def test_url_to_url_equals_disk_to_disk(cohort, remote, bucket):
    url = f"{bucket.url}/out/cohort.zarr"
    table = bucket.upload(cohort.table_path, "maps/participants.tsv")
    daskglm.convert(f"{bucket.url}/maps/sub-*_statmap.nii.gz", url, participants=table)
    images, local = daskglm.open_images(url), _local(cohort, participants=cohort.table)
    assert images["data"].values.tobytes() == local["data"].values.tobytes()
    assert list(images["source"].values) == remote
    for name in ("sample", "age", "sex", "source_size", "source_crc32"):
        assert (images[name].values == local[name].values).all()
    fits = [daskglm.SecondLevelModel().fit(x, formula="~ age") for x in (url, images, local)]
    maps = [fit.compute_contrast("age").get_fdata().tobytes() for fit in fits]
    assert maps[0] == maps[1] == maps[2]


def test_images_behind_urls_are_fitted(cohort, remote, bucket):
    model = daskglm.SecondLevelModel(mask_img=cohort.mask_img)
    maps = [
        model.fit(paths, design_matrix=cohort.design).compute_contrast("age").get_fdata()
        for paths in (cohort.paths, remote, f"{bucket.url}/maps/*.nii.gz")
    ]
    assert maps[0].tobytes() == maps[1].tobytes() == maps[2].tobytes()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_images_are_read_once_and_never_land_on_disk(bucket, tmp_path, monkeypatch, suffix):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"sub-{k}{suffix}" for k in range(3)]
    for path in paths:
        nib.Nifti1Image(rng.standard_normal((60, 60, 60), np.float32), np.eye(4)).to_filename(path)
    urls = [bucket.upload(path, path.name) for path in paths]
    local = str(tmp_path / "local.zarr")
    daskglm.convert([str(path) for path in paths], local, mask=False)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.chdir(scratch)
    bucket.faults.reset()
    store = f"{bucket.url}/cohort.zarr"
    daskglm.convert(urls, store, mask=False)
    assert os.listdir(scratch) == []
    for path in paths:
        request = f"GET {bucket.url.removeprefix('s3://')}/{path.name}"
        # Headers are looked at before any work, 16 KB each time; the values come in one pass.
        again = bucket.faults.served[request] - path.stat().st_size
        assert 0 < again <= 3 * 2**14
        assert bucket.faults.requests[request] <= 5
    images, truth = daskglm.open_images(store), daskglm.open_images(local)
    assert images["data"].values.tobytes() == truth["data"].values.tobytes()
    assert (images["source_crc32"].values == truth["source_crc32"].values).all()


def test_files_that_were_converted_are_not_read_again(cohort, remote, bucket):
    store = f"{bucket.url}/cohort.zarr"
    daskglm.convert(remote, store, mask=cohort.mask_img)
    bucket.faults.reset()
    assert len(daskglm.convert(remote, store).kept) == 12
    assert sum(bucket.faults.requests[f"GET {url.removeprefix('s3://')}"] for url in remote) == 0
    changed = bytearray(files.read_bytes(remote[0]))
    changed[-1] ^= 1
    before = file_states(remote)
    files.write_bytes(remote[0], bytes(changed))
    assert [a == b for a, b in zip(before, file_states(remote), strict=True)] == [False] + [True] * 11
    with pytest.raises(StoreError, match=r"holds sub-01 from a file with other contents"):
        daskglm.convert(remote, store)


def test_quarantine_is_listed_beside_the_store(cohort, remote, bucket):
    files.write_bytes(remote[3], files.read_bytes(remote[3])[:-9])
    store = f"{bucket.url}/out/cohort.zarr"
    with pytest.raises(CorruptImageError, match=r"s3://.*sub-04.*ends too early"):
        daskglm.convert(remote, store, mask=cohort.mask_img)
    result = daskglm.convert(remote, store, mask=cohort.mask_img, on_error="quarantine")
    assert list(result.quarantined) == ["sub-04"]
    assert result.list_of_quarantined == f"{bucket.url}/out/cohort_quarantined.tsv"
    assert b"sub-04\ts3://" in files.read_bytes(result.list_of_quarantined)
    assert daskglm.open_images(store).sizes["sample"] == 11
    files.write_bytes(remote[3], (cohort.folder / os.path.basename(remote[3])).read_bytes())
    daskglm.convert(remote, store)
    assert not files.exists(result.list_of_quarantined)
    assert daskglm.open_images(store).sizes["sample"] == 12


def test_foreign_and_incomplete_stores_are_refused(cohort, remote, bucket):
    with pytest.raises(OutputError, match="holds other files and is no store"):
        daskglm.convert(remote, f"{bucket.url}/maps", mask=cohort.mask_img)
    store = f"{bucket.url}/cohort.zarr"
    daskglm.convert(remote, store, mask=cohort.mask_img)
    files.remove(files.join(store, "data", "c", "0", "0"))
    with pytest.raises(StoreError, match="0 of 1 chunks of data"):
        daskglm.open_images(store)
    with pytest.raises(ImageError, match="no file matches"):
        daskglm.convert(f"{bucket.url}/nothing/*.nii.gz", f"{bucket.url}/new.zarr")
    with pytest.raises(CorruptImageError, match="no such file"):
        daskglm.convert([f"{bucket.url}/nothing.nii.gz"], f"{bucket.url}/new.zarr")


def _dumps(collection):
    return pickle.dumps(dict(collection.__dask_graph__()), protocol=0)


def test_secrets_are_in_no_task_message_or_attribute(cohort, remote, bucket, tmp_path):
    store = f"{bucket.url}/cohort.zarr"
    daskglm.convert(remote, store, mask=cohort.mask_img)
    images = daskglm.open_images(store)
    texts = [_dumps(images["data"].data), repr(images).encode(), repr(images.attrs).encode()]
    assert store.encode() in texts[0]
    texts.append(repr(dict(images["data"].data.__dask_graph__())).encode())
    fit = daskglm.SecondLevelModel().fit(store, formula="~ 1")
    texts.append(repr(fit.__dict__).encode())
    files.remove(files.join(store, "data", "zarr.json"))
    for broken in (store, f"{bucket.url}-absent/x.zarr", f"{bucket.url}/absent.nii.gz"):
        with pytest.raises((StoreError, ImageError, StorageError)) as caught:
            daskglm.SecondLevelModel().fit(broken, formula="~ 1")
        texts.append(repr(caught.value).encode())
    for text in texts:
        assert SECRET.encode() not in text
        assert KEY_ID.encode() not in text


def test_a_bucket_that_does_not_exist_is_told(cohort, bucket, tmp_path):
    url, told = f"{bucket.url}-absent", r"there is no bucket cohorts-\d+-absent; correct the URL"
    calls = [
        lambda: daskglm.open_images(f"{url}/all.zarr"),
        lambda: daskglm.SecondLevelModel().fit(f"{url}/*.nii.gz", formula="~ 1"),
        lambda: daskglm.SecondLevelModel().fit([f"{url}/sub-01.nii.gz", f"{url}/sub-02.nii.gz"], formula="~ 1"),
        lambda: daskglm.convert(cohort.paths, f"{url}/all.zarr", mask=cohort.mask_img),
        lambda: read_table(f"{url}/participants.tsv"),
    ]
    for call in calls:
        with pytest.raises((StorageError, OutputError), match=told):
            call()


@pytest.mark.parametrize("lost", range(7))
def test_lost_connections_are_asked_again_until_the_fifth(bucket, monkeypatch, lost):
    """What obstore itself does not ask again, by files and by Zarr."""
    import obstore

    path, waits, tries = f"{bucket.url}/a", [], []
    files.write_bytes(path, b"whole")
    get = obstore.get

    def losing(*given):
        tries.append(0)
        if len(tries) <= lost:
            raise obstore.exceptions.GenericError("HTTP error: error sending request after 1 retries")
        return get(*given)

    async def losing_too():
        return losing(*objects._object(path)).bytes()

    async def wait(seconds):
        waits.append(seconds)

    monkeypatch.setattr(obstore, "get", losing)
    monkeypatch.setattr(objects, "time", SimpleNamespace(sleep=waits.append, monotonic=time.monotonic))
    monkeypatch.setattr(zarr_stores, "asyncio", SimpleNamespace(sleep=wait))
    for ask in (lambda: files.read_bytes(path), lambda: asyncio.run(zarr_stores._again(losing_too))):
        waits.clear()
        tries.clear()
        if lost < 5:
            assert bytes(ask()) == b"whole"
        else:
            with pytest.raises((StorageError, obstore.exceptions.GenericError)) as caught:
                ask()
            assert getattr(caught.value, "tried", (10,))[0] == 10  # with those of obstore
            assert isinstance(caught.value, obstore.exceptions.GenericError) or "after 10 tries" in str(caught.value)
        assert len(tries) == min(lost + 1, 5)
        assert waits == [0.05, 0.2, 0.8, 2.0][:lost]


def test_what_a_server_refused_is_not_asked_again(bucket, monkeypatch):
    import obstore

    tries = []

    def refusing(*given):
        tries.append(0)
        raise obstore.exceptions.GenericError(f"HTTP error - non-2xx: {'x' * 400}")

    monkeypatch.setattr(obstore, "get", refusing)
    with pytest.raises(StorageError, match=r"cannot be read: non-2xx: x{291}; check") as caught:  # 300 characters
        files.read_bytes(f"{bucket.url}/a")
    assert len(tries) == 1
    assert "tries" not in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("PreconditionError", StorageError, "changed while it was read; run the same command again"),
        ("PermissionDeniedError", StorageError, "cannot be read: access is denied; check the credentials"),
        ("UnauthenticatedError", StorageError, "cannot be read: access is denied; check the credentials"),
        ("AlreadyExistsError", FileExistsError, "there is an object at s3://.* already"),
        ("GenericError", StorageError, "cannot be read: why; check that the store can be reached, then run"),
    ],
)
def test_what_a_store_answers_is_told_with_what_to_do(bucket, monkeypatch, fault, kind, message):
    import obstore

    def answer(*given):
        raise getattr(obstore.exceptions, fault)("Generic S3 error - why\n\nDebug source: secret")

    monkeypatch.setattr(obstore, "get", answer)
    with pytest.raises(kind, match=message) as caught:
        files.read_bytes(f"{bucket.url}/a")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("there", "ours"), [(b"mine", True), (b"another's", False), (None, False)])
def test_a_file_whose_creation_was_answered_by_nothing_is_ours_by_its_contents(bucket, monkeypatch, there, ours):
    """The answer was lost, and the next try finds the object there, or removed again."""
    path = f"{bucket.url}/token"
    if there is not None:
        files.write_bytes(path, there)

    def refuse(*given, **named):
        raise FileExistsError

    monkeypatch.setattr(objects, "write_object", refuse)
    assert files.create_bytes(path, b"mine") == ours


def test_servers_are_waited_for_a_time():
    limits = {"connect_timeout": "5s", "timeout": "5min", "read_timeout": "30s"}
    assert objects.object_store("https://host").client_options == limits
    waits = {"init_backoff": timedelta(milliseconds=50), "max_backoff": timedelta(seconds=3), "base": 3}
    asked = {"max_retries": 15, "retry_timeout": timedelta(seconds=8), "backoff": waits}
    assert objects.object_store("https://host").retry_config == asked
    assert objects.object_store("http://host").client_options == {**limits, "allow_http": "true"}


@pytest.mark.parametrize("url", ["s3://nobody:TheSecretOfNobody@bucket/x", "https://TheSecretOfNobody@host/x.nii.gz"])
def test_urls_with_passwords_are_refused_and_not_shown(url, cohort):
    calls = [
        partial(daskglm.open_images, url),
        partial(daskglm.convert, url, "out.zarr"),
        partial(daskglm.convert, [url, url], "out.zarr"),
        partial(daskglm.convert, [url], "out.zarr"),
        partial(daskglm.convert, cohort.paths, url),
        partial(daskglm.SecondLevelModel().fit, [url, cohort.paths[0]], formula="~ 1"),
        partial(files.write_bytes, url, b""),
    ]
    for call in calls:
        with pytest.raises(ParameterError, match=r"carries no user or password") as caught:
            call()
        assert SECRET not in str(caught.value)
        assert caught.value.__cause__ is None or SECRET not in str(caught.value.__cause__)


def test_signed_urls_are_refused_and_redacted():
    url = "https://host/x.nii.gz?X-Amz-Signature=abc&part=1"
    with pytest.raises(ParameterError, match=r"has no query.*https://host/x.nii.gz has one"):
        files.exists(url)
    assert redacted(f"get {url} now") == "get https://host/x.nii.gz?X-Amz-Signature=***&part=1 now"
    assert redacted("s3://a:b@c/d and gs://c/d") == "s3://***@c/d and gs://c/d"
    assert redacted("s3://bucket/sub-*/a?.nii") == "s3://bucket/sub-*/a?.nii"


def test_anonymous_buckets_are_read_without_a_signature(cohort, remote, bucket, monkeypatch):
    assert files.exists(remote[0])
    assert "Authorization" in {name.title() for name in bucket.faults.headers[-1]}
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    with pytest.raises(StorageError, match=r"access is denied.*AWS_SKIP_SIGNATURE=true for a public bucket"):
        read_values(remote[0])
    name, key = remote[0].removeprefix("s3://").split("/", 1)
    bucket.client.put_object_acl(Bucket=name, Key=key, ACL="public-read")
    bucket.faults.reset()
    header, _ = read_values(remote[0])
    assert header.shape == cohort.mask.shape
    assert bucket.faults.headers
    assert not any("Authorization" in {name.title() for name in item} for item in bucket.faults.headers)


@pytest.mark.parametrize(
    ("environment", "name", "by_profile"),
    [
        ({}, None, False),
        ({}, "credentials", True),
        ({}, "config", True),
        ({"AWS_PROFILE": "lab"}, None, True),
        ({"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}, "credentials", False),
        ({"AWS_SKIP_SIGNATURE": "True"}, "credentials", False),
        ({"AWS_SKIP_SIGNATURE": "false"}, "credentials", True),
        ({"AWS_SKIP_SIGNATURE": "true", "AWS_PROFILE": "lab"}, "config", False),
    ],
)
def test_profiles_count_where_the_environment_says_nothing(tmp_path, monkeypatch, environment, name, by_profile):
    for variable in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    if name is not None:
        (tmp_path / name).touch()
    assert (objects.object_store("s3://bucket") is None) == by_profile
    anonymous = environment.get("AWS_SKIP_SIGNATURE", "").lower() == "true"
    assert objects.fsspec_options("s3://bucket/a") == {"use_listings_cache": False, "anon": anonymous}


def test_profiles_are_read_by_s3fs(cohort, remote, bucket, monkeypatch, tmp_path):
    pytest.importorskip("s3fs")
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    credentials = tmp_path / "credentials"
    credentials.write_text("[lab]\naws_access_key_id = OFTHELAB\naws_secret_access_key = shh\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    _by_s3fs(cohort, remote, bucket)
    signed = {item[name] for item in bucket.faults.headers for name in item if name.title() == "Authorization"}
    assert signed
    assert all("Credential=OFTHELAB/" in text for text in signed)


def test_s3fs_serves_where_obstore_is_not_installed(cohort, remote, bucket, monkeypatch):
    pytest.importorskip("s3fs")
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    _by_s3fs(cohort, remote, bucket)
    assert any("boto" in str(item).lower() for item in bucket.faults.headers)


def _by_s3fs(cohort, remote, bucket):
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    bucket.faults.reset()
    store = f"{bucket.url}/cohort.zarr"
    daskglm.convert(f"{bucket.url}/maps/*", store, mask=cohort.mask_img)
    images = daskglm.open_images(store)
    assert images["data"].values.tobytes() == _local(cohort, mask=cohort.mask_img)["data"].values.tobytes()
    assert SECRET.encode() not in _dumps(images["data"].data)
    s3fs.S3FileSystem.clear_instance_cache()


def test_stores_in_memory(cohort):
    daskglm.convert(cohort.paths, "memory://cohorts/a.zarr", mask=cohort.mask_img)
    images = daskglm.open_images("memory://cohorts/a.zarr")
    assert images["data"].values.tobytes() == _local(cohort, mask=cohort.mask_img)["data"].values.tobytes()
    for name in files.list_below("memory://cohorts"):
        files.remove(files.join("memory://cohorts", name))


def test_images_and_stores_on_a_web_server(cohort):
    _local(cohort, mask=cohort.mask_img)
    root = cohort.folder.parent

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            base = f"http://127.0.0.1:{server.server_port}"
            _, values = read_values(f"{base}/maps/{os.path.basename(cohort.paths[0])}")
            images = daskglm.open_images(f"{base}/local.zarr")
            data = images["data"].values
            with pytest.raises(OutputError, match="https:// is only read"):
                daskglm.convert(cohort.paths, f"{base}/new.zarr")
            (root / "local.zarr" / "data" / "c" / "0" / "0").unlink()
            with pytest.raises(StoreError, match="0 of 1 chunks of data"):
                daskglm.open_images(f"{base}/local.zarr")
        finally:
            server.shutdown()
            thread.join()
    assert values.tobytes() == cohort.data[0].ravel(order="F").tobytes()
    assert data.tobytes() == cohort.vectors.tobytes()


@pytest.fixture(params=["disk", "s3", "memory"])
def root(request, tmp_path):
    """An empty folder of each kind."""
    if request.param == "s3":
        yield f"{request.getfixturevalue('bucket').url}/root"
    elif request.param == "disk":
        yield str(tmp_path / "root")
    else:
        yield "memory://root"
        for name in files.list_below("memory://root"):
            files.remove(files.join("memory://root", name))


def test_files_are_alike_on_disks_and_behind_urls(root):
    content = os.urandom(300_000)
    names = [("a", "x.txt"), ("a", "b", "y.txt"), ("z.txt",), ("a", ".hidden.txt")]
    paths = [files.join(root, *name) for name in names]
    assert files.list_names(root) == []
    assert not files.exists(paths[0])
    with pytest.raises(FileNotFoundError):
        files.read_bytes(paths[0])
    with pytest.raises(FileNotFoundError):
        files.open_binary(paths[0])
    with pytest.raises(FileNotFoundError):
        files.state(paths[0])
    for path in paths:
        files.write_bytes(path, content)
    assert files.list_names(root) == ["a", "z.txt"]
    assert files.list_names(files.join(root, "a")) == [".hidden.txt", "b", "x.txt"]
    assert files.exists(paths[0])
    assert not files.exists(files.join(root, "a"))
    assert files.glob_paths(files.join(root, "*.txt")) == [paths[2]]
    assert files.glob_paths(files.join(root, "?", "*.txt")) == [paths[0]]
    assert files.glob_paths(files.join(root, "**", "[xyz].txt")) == sorted(paths[:3])
    size, version = files.state(paths[0])
    assert size == 300_000
    assert files.state(paths[0]) == (size, version)
    files.write_bytes(paths[0], content[::-1])
    assert files.state(paths[0])[1] != version
    with files.open_binary(paths[1]) as file:
        assert file.peek(2)[:2] == content[:2]
        assert file.read(100_000) == content[:100_000]
        assert file.seek(250_000) == 250_000
        assert file.read() == content[250_000:]
        assert file.seek(0, os.SEEK_END) == 300_000
    assert files.list_below(root) == ["a/.hidden.txt", "a/b/y.txt", "a/x.txt", "z.txt"]
    for path in [*paths[:2], *paths[:2], paths[3]]:
        files.remove(path)
    files.remove_empty(files.join(root, "a"))
    assert files.list_names(root) == ["z.txt"]


def test_a_folder_is_not_removed_with_what_is_in_it(root):
    path = files.join(root, "a", "b", "x.txt")
    files.write_bytes(path, b"")
    for folder in (root, files.join(root, "a"), files.join(root, "a", "b")):
        with suppress(OSError):
            files.remove(folder)
        files.remove_empty(folder)
    assert files.read_bytes(path) == b""
    files.remove(path)


def test_of_many_that_create_a_file_one_succeeds(root):
    path = files.join(root, "lock")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda k: files.create_bytes(path, b"%d" % k), range(8)))
    assert sum(won) == 1
    assert files.read_bytes(path) == b"%d" % won.index(True)
    assert files.list_names(root) == ["lock"]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_volumes_stream_and_maps_are_written(root, suffix):
    data = np.random.default_rng(1).standard_normal((9, 8, 7, 6)).astype(np.float32)
    path = files.join(root, f"run{suffix}")
    files.write_bytes(files.join(root, "other"), b"")  # makes the folder, where there are folders
    write_image(nib.Nifti1Image(data, np.eye(4)), path)
    volumes = list(stream_volumes(path, 2, 5))
    assert np.array_equal(volumes, data.reshape(-1, 6, order="F").T[2:5])
    _, values = read_values(path, slice(1, 4))
    assert np.array_equal(values, data.reshape(-1, 6, order="F").T[1:4])
