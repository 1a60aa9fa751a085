"""What `import unanimity` gives, and what it costs."""

from __future__ import annotations

import subprocess
import sys

import unanimity


def test_every_exported_name_is_there_and_says_where_it_is_from() -> None:
    assert len(set(unanimity.__all__)) == len(unanimity.__all__)
    for name in unanimity.__all__:
        value = getattr(unanimity, name)
        assert value.__name__ == name
        assert value.__module__.startswith("unanimity.")
        assert value.__doc__, name


def test_everything_public_is_exported() -> None:
    own = {
        name
        for name, value in vars(unanimity).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("unanimity.")
    }
    assert own <= set(unanimity.__all__)


def test_a_star_import_gives_all_of_it() -> None:
    names: dict[str, object] = {}
    exec("from unanimity import *", names)
    assert set(unanimity.__all__) <= set(names)


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(unanimity, "no_such_name")


def test_the_version_is_the_engines() -> None:
    from unanimity import _engine

    assert unanimity.__version__ == _engine.version()


def test_importing_brings_neither_asyncio_nor_the_engine() -> None:
    script = (
        "import sys, unanimity\n"
        "late = {'asyncio', 'unanimity._engine', 'pandas', 'json', 'typing_extensions'}\n"
        "raise SystemExit(' '.join(late & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
