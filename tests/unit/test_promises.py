"""Which tests keep which of the promises in docs/promises.md, and that no promise is without one.

The documents name tests by their files and parts of their names, which must not go stale either.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = [path for path in (ROOT / "tests").rglob("test_*.py") if "node_modules" not in path.parts]
LISTED = re.compile(r"^\| ([NEM]\d+) \| (.+) \|$", re.MULTILINE)
WITHOUT_TEST = ("*Not here:*", "*Not yet:*")


def promises() -> dict[str, str]:
    """The listed promises by their numbers."""
    listed = LISTED.findall((ROOT / "docs/promises.md").read_text(encoding="utf-8"))
    assert len({number for number, _ in listed}) == len(listed), "a number comes twice"
    return dict(listed)


def named_by_tests() -> Iterator[str]:
    """The numbers that tests are marked with."""
    for path in TESTS:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.promise":
                yield from (str(ast.literal_eval(number)) for number in node.args)


def test_every_promise_of_the_three_pages_is_listed() -> None:
    last = {"N": 53, "E": 55, "M": 37}
    expected = {f"{page}{number}" for page in last for number in range(1, last[page] + 1)}
    assert promises().keys() == expected


def test_every_promise_that_is_kept_here_is_named_by_a_test() -> None:
    listed, named = promises(), set(named_by_tests())
    assert named <= listed.keys()
    unkept = {number for number, told in listed.items() if told.startswith(WITHOUT_TEST)}
    assert named == listed.keys() - unkept


def test_every_test_that_the_list_of_faults_names_exists() -> None:
    known = {path.stem: path.read_text(encoding="utf-8") for path in TESTS}
    cited = re.findall(r"`([^`\n]*)`", (ROOT / "docs/faults.md").read_text(encoding="utf-8"))
    module, checked = "", 0
    for reference in cited:
        head, _, name = reference.rpartition("/")[2].partition("::")
        if head.startswith("test_"):
            module = head.removesuffix(".py")
            assert module in known, reference
        elif head.startswith("…"):
            # Another test of the module before it.
            name = head
        else:
            continue
        parts = [part for part in re.split(r"…|\[.*", name.removeprefix("test_")) if part]
        pattern = r"def test_\w*" + r"\w*".join(map(re.escape, parts))
        assert not parts or re.search(pattern, known[module]), reference
        checked += 1
    assert checked > 100
