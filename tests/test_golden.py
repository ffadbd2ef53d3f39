"""The proof that code is equal: what no golden run executed is named, wherever a function has moved."""

import golden

OLDER = '''
def double(x):
    """Twice x."""
    return 2 * x


class Model:
    def half(self, x):
        if x is None:
            return None
        return x / 2
'''


def unreached(tmp_path, source, executed):
    (tmp_path / "older.py").write_text(OLDER)
    (tmp_path / "newer.py").write_text(source)
    lines = golden._unreached([tmp_path / "newer.py"], [tmp_path / "older.py"], {str(tmp_path / "newer.py"): executed})
    return [line.split(": ", 1)[1] for line in lines]


def test_what_has_only_moved_is_unchanged(tmp_path):
    lines = OLDER.splitlines()
    moved = "\n".join(["# another file", *lines[6:], *lines[:6]])
    assert unreached(tmp_path, moved, executed=[]) == []


def test_a_changed_line_has_to_be_executed(tmp_path):
    changed = OLDER.replace("return None", "return 0").replace("2 * x", "x + x")
    assert unreached(tmp_path, changed, executed=[]) == ["return x + x", "return 0"]
    assert unreached(tmp_path, changed, executed=[4]) == ["return 0"]
    assert unreached(tmp_path, changed, executed=[4, 10]) == []


def test_a_function_of_another_name_is_new_code(tmp_path):
    assert "return 2 * x" in unreached(tmp_path, OLDER.replace("double", "twice"), executed=[2])


def test_comments_messages_and_what_is_marked_need_no_run(tmp_path):
    source = OLDER.replace("return None", 'text = "x is missing"\n            raise ValueError(text)  # why')
    assert unreached(tmp_path, source, executed=[]) == []
    warns = OLDER.replace("return None", 'warnings.warn("x is missing")\n            return None')
    assert unreached(tmp_path, warns, executed=[]) == []
    marked = OLDER.replace("return None", "return 0  # unproved: needs another machine")
    assert unreached(tmp_path, marked, executed=[]) == []
    marked = OLDER.replace("2 * x", "x + x").replace("def double(x):", "def double(x):  # unproved: needs a network")
    assert unreached(tmp_path, marked, executed=[]) == []


def test_a_line_within_a_statement_of_several_counts_with_its_beginning(tmp_path):
    source = OLDER.replace("return 2 * x", "return sum(\n        [x, x]\n    )")
    assert unreached(tmp_path, source, executed=[4]) == []
    assert "[x, x]" in unreached(tmp_path, source, executed=[])
