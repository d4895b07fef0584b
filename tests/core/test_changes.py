"""Which changes count, and when a reload is due for them."""

import pytest

from everycore.core.changes import MOST_DELAY, Batch, WatchedFiles, named, outermost

ROOT = "/home/ann/.work/site-packages/shop"


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("main.py", True),
        ("shop/models/order.py", True),
        ("main.pyc", False),
        ("templates/page.html", False),
        (".env.py", False),
        (".git/hooks/hook.py", False),
        (".venv/lib/python3.11/site-packages/click/core.py", False),
        ("venv/lib/python3.11/site-packages/click/core.py", False),
        ("web/node_modules/gyp/gyp.py", False),
        ("__pycache__/main.py", False),
        ("~main.py", False),
        (".main.py.swp", False),
        ("main.py~", False),
    ],
)
def test_what_counts_unless_told_otherwise(path, counts):
    # Folders above the watched one do not count: otherwise nothing in it would.
    assert WatchedFiles((ROOT,)).counts(f"{ROOT}/{path}") is counts


def test_outside_of_the_watched_folders_nothing_counts():
    watch = WatchedFiles((ROOT,))
    assert not watch.counts("/home/ann/main.py")
    assert not watch.counts(f"{ROOT}s/main.py")


def test_what_the_service_writes_does_not_count():
    watch = WatchedFiles((ROOT,), includes=("*", "app.log"), written=frozenset({f"{ROOT}/app.log"}))
    assert not watch.counts(f"{ROOT}/app.log")
    assert watch.counts(f"{ROOT}/data.log")


@pytest.mark.parametrize(
    ("include", "path", "counts"),
    [
        ("*.html", "templates/page.html", True),
        ("templates/*.html", "templates/page.html", True),
        ("templates/*.html", "shop/templates/page.html", True),
        ("templates/*.html", "templates/mail/page.html", False),
        ("templates/**", "templates/mail/page.html", True),
        ("templates/**/*.html", "templates/page.html", True),
        ("**/*.html", "page.html", True),
        ("shop/*.css", "a.css", True),
        ("*.html", "main.py", True),
        ("*.html", "main.css", False),
        (".env", ".env", True),
        (".*", ".env", True),
        ("*.html", ".hidden/page.html", False),
        ("*.HTML", "page.html", False),
        ("[", "[", True),
    ],
)
def test_an_include(include, path, counts):
    assert WatchedFiles((ROOT,), includes=(include,)).counts(f"{ROOT}/{path}") is counts


@pytest.mark.parametrize(
    ("exclude", "path", "counts"),
    [
        ("tests/*", "tests/test_a.py", False),
        ("tests/*", "tests/unit/test_a.py", False),
        ("tests", "tests/unit/test_a.py", False),
        ("tests", "shop/tests.py", True),
        ("test_*.py", "tests/test_a.py", False),
        ("test_*.py", "tests/a.py", True),
        ("*.py", "main.py", False),
        ("shop", "main.py", True),
    ],
)
def test_an_exclude(exclude, path, counts):
    assert WatchedFiles((ROOT,), excludes=(exclude,)).counts(f"{ROOT}/{path}") is counts


def test_a_folder_that_is_skipped_and_one_of_its_own_in_it():
    watch = WatchedFiles(("/a",), skipped=("/a/generated",))
    assert not watch.counts("/a/generated/deep/x.py")
    assert watch.counts("/a/generated.py")
    # A hidden folder that is named is watched.
    hidden = WatchedFiles(("/a", "/a/.hidden/src"))
    assert hidden.counts("/a/.hidden/src/x.py")
    assert not hidden.counts("/a/.hidden/x.py")
    assert hidden.enters("/a/.hidden/src/deep")
    assert not hidden.enters("/a/.git")


def test_a_file_of_its_own_counts_wherever_it_is():
    watch = WatchedFiles(
        ("/a",), files=frozenset({"/etc/shop/.env", "/a/everycore.toml"}), excludes=("*.toml",)
    )
    assert watch.counts("/etc/shop/.env")
    assert watch.counts("/a/everycore.toml")
    assert not watch.counts("/a/other.toml")


def test_the_root_of_all_may_be_watched():
    assert WatchedFiles(("/",)).counts("/srv/main.py")
    assert not WatchedFiles(("/",)).counts("/.hidden/main.py")
    assert named(["/srv/main.py"], "/") == "srv/main.py"


def test_outermost_folders():
    assert outermost(["/a/b", "/a", "/ab", "/a", "/a/b/c"]) == ("/a", "/ab")
    assert outermost(["/", "/a"]) == ("/",)


def test_changes_are_one_reload_once_there_is_peace():
    batch = Batch(0.25)
    assert batch.add(["/a"], 10.0) == 10.25
    assert batch.add(["/b", "/a"], 10.2) == pytest.approx(10.45)
    assert batch.take() == ["/a", "/b"]
    assert batch.add(["/c"], 20.0) == 20.25
    assert batch.take() == ["/c"]


def test_files_that_never_rest_do_not_put_it_off_for_ever():
    batch = Batch(0.25)
    due = [batch.add(["/log.py"], number / 10) for number in range(100)]
    assert max(due) == MOST_DELAY
    assert Batch(5.0).add(["/a"], 1.0) == 6.0


def test_some_changed_files_are_named():
    assert named(["/a/x.py", "/b/y.py"], "/a") == "x.py, /b/y.py"
    assert named([f"/a/{number}.py" for number in range(9)], "/a") == "0.py, 1.py, 7 more"
