"""Waiting for an import: every way a module may come into being, and none that is disturbed by it."""

import copy
import importlib
import importlib.resources
import importlib.util
import pkgutil
import runpy
import subprocess
import sys
import textwrap
import threading
import traceback
import zipfile
from importlib.machinery import ModuleSpec, PathFinder

import pytest

import millstream
from millstream.record import faults
from millstream.record.integrations import on_import
from millstream.record.integrations.on_import import forget, is_installed, when_imported


def _wait_for_nothing():
    on_import._waiting.clear()
    on_import._leave_if_done()


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A function that writes modules, by path and text, which can then be imported."""
    names = set()

    def write(**modules):
        for name, text in modules.items():
            file = tmp_path / f"{name.replace('_in_', '/')}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(text))
            names.add(name.partition("_in_")[0])
        importlib.invalidate_caches()

    monkeypatch.syspath_prepend(tmp_path)
    millstream.uninstrument()
    _wait_for_nothing()
    finders = list(sys.meta_path)
    yield write
    _wait_for_nothing()
    assert [finder for finder in sys.meta_path if finder in finders] == finders
    for name in list(sys.modules):
        if name.partition(".")[0] in names:
            del sys.modules[name]


@pytest.fixture
def told():
    """What was done, in order."""
    return []


def test_after_the_import_or_at_once(make, told):
    make(soon="x = 1")
    when_imported("soon", lambda: told.append(sys.modules["soon"].x))
    assert told == []
    import soon

    assert told == [1]
    when_imported("soon", lambda: told.append("now"))
    assert told == [1, "now"]
    importlib.reload(soon)
    del sys.modules["soon"]
    importlib.import_module("soon")
    assert told == [1, "now"]
    assert on_import._finder not in sys.meta_path


def test_the_module_is_as_without_us(make, told):
    make(plain="x = 1")
    when_imported("plain", lambda: told.append(1))
    import plain

    spec = importlib.util.spec_from_file_location("plain", plain.__file__)
    assert type(plain.__spec__) is ModuleSpec
    assert plain.__spec__ == spec
    assert vars(plain.__loader__) == vars(spec.loader)
    assert plain.__spec__.loader is plain.__loader__


def test_looking_for_a_module_is_no_import(make, told):
    make(sought_in___init__="x = 1", sought_in_sub="y = 2")
    when_imported("sought", lambda: told.append("sought"))
    when_imported("sought.sub", lambda: told.append("sub"))
    for _ in range(2000):
        spec = importlib.util.find_spec("sought")
    assert isinstance(spec, ModuleSpec)
    assert type(spec).__name__ == "ModuleSpec"
    assert copy.copy(spec) == spec
    assert "sought" in [module.name for module in pkgutil.iter_modules(sys.path[:1])]
    assert is_installed("sought.sub")
    assert not is_installed("sought.none")
    assert told == []
    assert importlib.resources.files("sought").joinpath("sub.py").read_text() == "y = 2"
    assert told == ["sought"]
    importlib.import_module("sought.sub")
    assert told == ["sought", "sub"]


def test_a_copy_that_somebody_executes_is_not_the_module(make, told):
    make(twin="x = 1")
    when_imported("twin", lambda: told.append(1))
    spec = importlib.util.find_spec("twin")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.x == 1
    assert runpy.run_module("twin")["x"] == 1
    assert told == []
    importlib.import_module("twin")
    assert told == [1]


def test_a_module_that_fails_may_be_imported_again(make, told):
    make(
        shaky="import shaky_flag\nif shaky_flag.broken: raise ValueError('not yet')",
        shaky_flag="broken = True",
    )
    when_imported("shaky", lambda: told.append(1))
    for _ in range(3):
        with pytest.raises(ValueError, match="not yet") as caught:
            import shaky
        frames = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
        assert not any("millstream/record" in name for name in frames)
    assert told == []
    sys.modules["shaky_flag"].broken = False
    import shaky  # noqa: F401

    assert told == [1]


def test_an_action_that_fails_is_counted_and_the_import_goes_on(make, told, monkeypatch):
    make(harmless="x = 1")

    def breaks():
        raise RuntimeError("ours")

    monkeypatch.setattr(faults, "strict", False)
    when_imported("harmless", breaks)
    when_imported("harmless", lambda: told.append(1))
    import harmless

    assert harmless.x == 1
    assert told == [1]
    assert faults.counts.pop("calls of harmless could not be instrumented") == 1


def test_no_longer_waited_for(make, told):
    make(dropped="x = 1", kept="x = 1")

    def action():
        told.append("dropped")

    when_imported("dropped", action)
    when_imported("kept", lambda: told.append("kept"))
    importlib.util.find_spec("dropped")
    forget(action)
    forget(action)
    importlib.import_module("dropped")
    assert told == []
    assert on_import._finder in sys.meta_path
    importlib.import_module("kept")
    assert told == ["kept"]
    assert on_import._finder not in sys.meta_path


def test_asked_for_while_it_is_being_imported(make, told):
    make(
        middle="""
            from millstream.record.integrations.on_import import when_imported
            import middle_told
            when_imported("middle", lambda: middle_told.told.append(x))
            assert middle_told.told == []
            x = 1
        """,
        middle_told="told = []",
    )
    import middle  # noqa: F401

    assert sys.modules["middle_told"].told == [1]


def test_modules_that_import_each_other_are_waited_for(make, told):
    make(
        ring_in___init__="",
        ring_in_first="from ring import second\nclass First: pass",
        ring_in_second="from ring import third",
        ring_in_third="x = 1",
    )

    def action():
        from ring.first import First

        told.append(First.__name__)

    when_imported("ring.third", action)
    import ring.first  # noqa: F401

    assert told == ["First"]


def test_an_import_in_another_thread_is_waited_for(make, told):
    make(
        slow="import slow_gate\nslow_gate.began.set()\nslow_gate.go.wait(10)\nx = 1",
        slow_gate="""
        import threading
        began, go = threading.Event(), threading.Event()
    """,
    )
    gate = importlib.import_module("slow_gate")
    thread = threading.Thread(target=importlib.import_module, args=["slow"])
    thread.start()
    assert gate.began.wait(10)
    when_imported("slow", lambda: told.append(sys.modules["slow"].x))
    assert told == []
    gate.go.set()
    thread.join()
    assert told == [1]


def test_imported_by_many_threads_at_once(make, told):
    make(**{f"crowd{number}": "import time\ntime.sleep(0.001)" for number in range(20)})
    for number in range(20):
        when_imported(f"crowd{number}", lambda number=number: told.append(number))
    barrier = threading.Barrier(8)

    def work(turn):
        barrier.wait()
        for number in range(20):
            name = f"crowd{(number * 7 + turn) % 20}"
            importlib.util.find_spec(name)
            importlib.import_module(name)

    threads = [threading.Thread(target=work, args=[turn]) for turn in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == list(range(20))


def test_finders_that_come_first_and_ask_everybody(make, told):
    make(asked="x = 1")

    class Asking:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name != "asked" or told:
                return None
            told.append("asking")
            return importlib.util.find_spec(name)

    when_imported("asked", lambda: told.append("imported"))
    sys.meta_path.insert(0, Asking)
    try:
        importlib.import_module("asked")
    finally:
        sys.meta_path.remove(Asking)
    assert told == ["asking", "imported"]


def test_from_a_zip(tmp_path, make, told):
    archive = tmp_path / "bundle.zip"
    with zipfile.ZipFile(archive, "w") as bundle:
        bundle.writestr("zipped/__init__.py", "from zipped import inner")
        bundle.writestr("zipped/inner.py", "x = 1")
        bundle.writestr("zipped/data.txt", "text")
        bundle.writestr("zipped/late.py", "y = 2")
    make(zipped="")
    (tmp_path / "zipped.py").unlink()
    sys.path.insert(0, str(archive))
    try:
        for name in ("zipped", "zipped.inner", "zipped.late"):
            when_imported(name, lambda name=name: told.append(name))
        for _ in range(2000):
            importlib.util.find_spec("zipped")
        import zipped

        assert told == ["zipped", "zipped.inner"]
        assert importlib.resources.files("zipped").joinpath("data.txt").read_text() == "text"
        assert "exec_module" not in vars(zipped.__loader__)
        import zipped.late

        assert told[2:] == ["zipped.late"]
    finally:
        sys.path.remove(str(archive))


def test_packages_without_code_built_in_modules_and_specs_of_other_kinds(make, told):
    make(hollow_in_leaf="x = 1", odd="x = 1")

    class OddSpec(ModuleSpec):
        pass

    class Odd:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "odd":
                found = PathFinder.find_spec(name, path)
                return OddSpec(name, found.loader, origin=found.origin)
            return None

    removed = sys.modules.pop("_bisect", None)
    sys.meta_path.insert(0, Odd)
    try:
        for name in ("hollow", "hollow.leaf", "odd", "_bisect"):
            when_imported(name, lambda name=name: told.append(name))
        importlib.import_module("hollow.leaf")
        odd = importlib.import_module("odd")
        importlib.import_module("_bisect")
    finally:
        sys.meta_path.remove(Odd)
        if removed is not None:
            sys.modules["_bisect"] = removed
    assert told == ["hollow", "hollow.leaf", "odd", "_bisect"]
    assert type(odd.__spec__) is OddSpec


def test_a_module_that_puts_another_in_its_place(make, told):
    make(masked="import sys, types\nsys.modules[__name__] = types.SimpleNamespace(x=1)")
    when_imported("masked", lambda: told.append(sys.modules["masked"].x))
    importlib.import_module("masked")
    assert told == [1]


def test_what_is_no_package_has_nothing_inside(make):
    make(single="x = 1", mcp="x = 1")
    assert not is_installed("single.mcp")
    importlib.import_module("single")
    assert not is_installed("single.mcp")


def test_a_module_that_only_a_finder_of_its_own_finds(make, told):
    make(hidden_in_secret="x = 1")

    class Editable:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "secret":
                return importlib.util.spec_from_file_location(name, f"{sys.path[0]}/hidden/secret.py")
            return None

    sys.meta_path.append(Editable)
    try:
        assert is_installed("secret")
        when_imported("secret", lambda: told.append(1))
        importlib.import_module("secret")
        assert told == [1]
    finally:
        sys.meta_path.remove(Editable)
        sys.modules.pop("secret", None)


def test_rewritten_by_pytest(tmp_path):
    (tmp_path / "checked.py").write_text("def check(x):\n    assert x == 1\n")
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent("""
            import pytest
            from millstream.record.integrations.on_import import when_imported
            pytest.register_assert_rewrite("checked", "other")
            told = []
            when_imported("checked", lambda: told.append(1))
            when_imported("other", lambda: told.append(2))

            def test_it():
                import checked
                assert told == [1]
                with pytest.raises(AssertionError, match="assert 2 == 1"):
                    checked.check(2)
                import other
                assert told == [1, 2]
        """)
    )
    (tmp_path / "other.py").write_text("x = 1")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "program",
    [
        "import millstream; millstream.instrument('langchain'); import langgraph.pregel",
        "import langgraph.pregel; import millstream; millstream.instrument('langchain')",
        "import millstream; millstream.instrument(); import langchain_core.tools; import langgraph.pregel",
    ],
)
def test_langgraph_before_and_after(program):
    script = f"{program}\nassert hasattr(langgraph.pregel.Pregel.stream, '__wrapped__')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_uninstrumented_before_the_import():
    script = """
import sys, millstream
finders = list(sys.meta_path)
millstream.instrument()
millstream.uninstrument()
assert sys.meta_path == finders, sys.meta_path
import langchain_core.callbacks
from langchain_core.language_models import BaseChatModel
assert not hasattr(BaseChatModel.stream, "__wrapped__")
assert "millstream.record.integrations.langchain" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert millstream.uninstrument() is None
