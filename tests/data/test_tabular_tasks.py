"""Tables by columns: how a CSV file is read, what its columns can be, and how refusals say where and what to do."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import datasets

from metafast.data import tabular_tasks
from metafast.data.tabular_tasks import Columns
from metafast.data.tasks import Task, split


@pytest.mark.parametrize("name", tabular_tasks.DATA_SETS)
def test_tables_have_the_columns_of_their_source_and_no_target_is_a_feature(name):
    target, described = tabular_tasks.DATA_SETS[name]
    options = {"scaled": False} if name == "diabetes" else {}
    bunch = getattr(datasets, "load_" + name.replace("-", "_"))(**options)
    source = dict(zip(bunch.feature_names, bunch.data.T, strict=True)) | {target: bunch.target}
    if name == "diabetes":
        assert set(np.unique(source["sex"])) == {1.0, 2.0}
        source["sex"] = source["sex"] - 1
    table = tabular_tasks.load(name)
    assert [f"{task.name}:{task.kind}" for task in table.tasks] == list(described)
    for task, column in zip(table.tasks, table.labels.T, strict=True):
        np.testing.assert_array_equal(column, source.pop(task.name).astype(np.float32))
    np.testing.assert_array_equal(table.features, np.column_stack(list(source.values())).astype(np.float32))
    for column in table.labels.T:
        assert not (table.features == column[:, None]).all(0).any()
    other = tabular_tasks.load(name, [f"{target}:real"])
    assert other.features.shape[1] == len(bunch.feature_names)
    fewer = tabular_tasks.load(name, [f"{target}:real"], ignore=[bunch.feature_names[0]])
    np.testing.assert_array_equal(fewer.features, other.features[:, 1:])
    assert [part.labels.shape[1] for part in split(table).values()] == [len(described)] * 3


def test_a_table_that_is_not_there_is_said_with_those_that_are():
    with pytest.raises(ValueError, match="no table 'iris'; there is wine, diabetes, breast-cancer"):
        tabular_tasks.load("iris")


def write(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode(encoding))
    return path


def read(tmp_path, text):
    return tabular_tasks.read_csv(write(tmp_path, text))


def make_columns(**columns):
    return Columns(tuple(columns), np.column_stack([np.array(column, float) for column in columns.values()]))


GOOD = 'width,"weight, in kg",sick,kind\n1.5,-2,1,0\n\n2e1, 3 ,,1\n-0.5,4,0,\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_csv_file_is_read_with_quoted_names_and_missing_labels(tmp_path, encoding, newline):
    columns = tabular_tasks.read_csv(write(tmp_path, GOOD.replace("\n", newline), encoding))
    assert columns.names == ("width", "weight, in kg", "sick", "kind")
    np.testing.assert_array_equal(columns.values, [[1.5, -2, 1, 0], [20, 3, np.nan, 1], [-0.5, 4, 0, np.nan]])
    assert columns.texts == {}
    assert columns.lines == (2, 4, 5)
    table = tabular_tasks.choose(columns, ["kind:classes", "sick:binary"])
    assert table.tasks == (Task("kind", "classes", 2, class_names=("0", "1")), Task("sick", "binary"))
    np.testing.assert_array_equal(table.features, [[1.5, -2], [20, 3], [-0.5, 4]])
    np.testing.assert_array_equal(table.labels, [[0, 1], [1, np.nan], [np.nan, 0]])


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_the_separator_is_the_one_most_frequent_in_the_header_outside_of_quotes(tmp_path, separator):
    others = ",;\t".replace(separator, "")
    quoted = f"a {2 * others} a"
    text = "\n" + separator.join([f'"{quoted}"', f"b{others}b", "c", "d"]) + "\n" + separator.join("1234") + "\n"
    columns = read(tmp_path, text)
    assert columns.names == (quoted, f"b{others}b", "c", "d")
    np.testing.assert_array_equal(columns.values, [[1, 2, 3, 4]])


@pytest.mark.parametrize("missing", ["", "  ", "NA", "na", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "none"])
def test_missing_cells_are_missing_among_numbers_and_among_texts(tmp_path, missing):
    columns = read(tmp_path, f"number,text,x\n1,red,0\n{missing},{missing},1\n 2 , blue ,2\n")
    np.testing.assert_array_equal(columns.values, [[1, 1, 0], [np.nan, np.nan, 1], [2, 0, 2]])
    assert columns.texts == {"text": ("blue", "red")}


def test_a_column_with_one_text_holds_texts_only(tmp_path):
    columns = read(tmp_path, "a,b\n10,1\n9,2\nx,3\n9.0,4\n9,5\n")
    assert columns.texts == {"a": ("10", "9", "9.0", "x")}
    np.testing.assert_array_equal(columns.values[:, 0], [0, 1, 3, 2, 1])
    table = tabular_tasks.choose(columns, ["a:classes"])
    assert table.tasks == (Task("a", "classes", 4, class_names=("10", "9", "9.0", "x")),)
    np.testing.assert_array_equal(table.labels, columns.values[:, :1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs a line of names and a line for each row"),
        ("a,b\n", "needs a line of names and a line for each row"),
        ("NA\n", "needs a line of names and a line for each row"),
        ("a,a\n1,2\n", "every column needs a name of its own; they are 'a', 'a'"),
        ("a,\n1,2\n", "every column needs a name of its own; they are 'a', ''"),
        ("a, a\n1,2\n", "every column needs a name of its own"),
        ("1,2\n3,4\n", "the first line must hold the columns' names, not numbers: 1, 2"),
        ("1.5;NA;\n3;4;5\n", "the first line must hold the columns' names, not numbers: 1.5, NA, "),
        ("1,1\n", "the first line must hold the columns' names"),
        ("a,b\n1,2\n3\n", "line 3 has 1 cells, but there are 2 columns"),
        ("a,b\n\n1,2\n\n3,4,5\n", "line 5 has 3 cells, but there are 2 columns"),
        ('a,b\n"x\ny",2\n3\n', "line 4 has 1 cells"),
        ('a,b\n"' + "1" * 140_000 + '",2\n', "cannot be read, near line 2: field larger"),
    ],
)
def test_a_bad_csv_file_is_refused_by_its_line(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*(" + message + ")"):
        tabular_tasks.read_csv(path)


def test_a_header_with_one_name_among_numbers_is_a_header(tmp_path):
    assert read(tmp_path, "2019,x\n1,2\n").names == ("2019", "x")


def test_a_file_that_is_no_text_is_refused_by_its_name_and_line(tmp_path):
    for text, line in (("gr\u00f6\u00dfe,b\n1,2\n", 1), ("a,b\n1,2\n3,\u00f6\n", 3)):
        path = write(tmp_path, text, "latin-1")
        with pytest.raises(ValueError, match=re.escape(str(path)) + f" cannot be read, near line {line}: .*UTF-8"):
            tabular_tasks.read_csv(path)


def test_a_file_that_is_not_there_is_said_in_words(tmp_path):
    with pytest.raises(OSError, match=r"^there is no file x\.csv$"):
        tabular_tasks.read_csv("x.csv")
    with pytest.raises(OSError, match="^" + re.escape(str(tmp_path)) + r" cannot be read: [^\[\]]+$"):
        tabular_tasks.read_csv(tmp_path)


@pytest.mark.parametrize("cell", ["", "nan", "NA"])
def test_a_feature_without_a_number_is_named_with_its_line_and_remedy(tmp_path, cell):
    columns = read(tmp_path, f"width,my height,size\n1,2,3\n\n4,{cell},6\n7,,9\n")
    with pytest.raises(
        ValueError, match=r"'my height' is a feature, but its cell on line 4 is missing: .*--ignore 'my he"
    ):
        tabular_tasks.choose(columns, ["size:real"])
    np.testing.assert_array_equal(
        tabular_tasks.choose(columns, ["size:real"], ["my height"]).features, [[1], [4], [7]]
    )  # fmt: skip


@pytest.mark.parametrize("cell", ["inf", "-inf", "1e39", "-Infinity"])
def test_an_infinite_cell_is_named_in_features_and_tasks_of_every_kind(tmp_path, cell):
    columns = read(tmp_path, f"width,size\n1,0\n4,1\n4,{cell}\n")
    place = re.escape(f"{float(cell):g} on line 4 is infinite")
    for kind in ("binary", "bounded", "classes", "real"):
        with pytest.raises(ValueError, match=f"task 'size' is {kind}, but {place}"):
            tabular_tasks.choose(columns, [f"size:{kind}"])
    with pytest.raises(ValueError, match=f"'size' is a feature, but {place} .*--ignore size"):
        tabular_tasks.choose(columns, ["width:real"])


def test_text_that_is_no_class_is_named_with_a_cell_its_line_and_remedies(tmp_path):
    columns = read(tmp_path, "width,town\n1,7\n2,\n3,New Bern\n4,Rome\n")
    with pytest.raises(
        ValueError,
        match=r"'town' is a feature, but holds text, as 'New Bern' on line 4: .*--ignore town.*, town:classes",
    ):
        tabular_tasks.choose(columns, ["width:real"])
    for kind in ("real", "bounded"):
        with pytest.raises(
            ValueError, match=f"'town' is {kind}, .* text, as 'New Bern' on line 4: make it town:classes.*--ignore town"
        ):
            tabular_tasks.choose(columns, [f"town:{kind}"])
    with pytest.raises(
        ValueError, match="'town' is binary, but its column holds 3 texts, as 'New Bern' on line 4: make it"
    ):
        tabular_tasks.choose(columns, ["town:binary"])


def test_two_texts_are_a_binary_task(tmp_path):
    columns = read(tmp_path, "width,sold\n1,yes\n2,no\n3,\n4,yes\n")
    table = tabular_tasks.choose(columns, ["sold:binary"])
    assert table.tasks == (Task("sold", "binary", class_names=("no", "yes")),)
    np.testing.assert_array_equal(table.labels[:, 0], [1, 0, np.nan, 1])


@pytest.mark.parametrize(
    ("values", "labels", "names"),
    [
        ([10, 30, 20, 10], [0, 2, 1, 0], ("10", "20", "30")),
        ([-1, 1, np.nan, 0], [0, 2, np.nan, 1], ("-1", "0", "1")),
        ([0.5, 0, 0.5, 1], [1, 0, 1, 2], ("0", "0.5", "1")),
        ([2, 0, 1, 3], [2, 0, 1, 3], ("0", "1", "2", "3")),
        # Single precision and six digits cannot tell these apart.
        ([100_000_001, 100_000_000, 100_000_001, np.nan], [1, 0, 1, np.nan], ("100000000", "100000001")),
    ],
)
def test_any_distinct_values_are_classes(values, labels, names):
    table = tabular_tasks.choose(make_columns(width=range(4), kind=values), ["kind:classes"])
    assert table.tasks == (Task("kind", "classes", len(names), class_names=names),)
    np.testing.assert_array_equal(table.labels[:, 0], labels)
    assert table.labels.dtype == np.float32


@given(codes=st.lists(st.integers(0, 9), min_size=2, max_size=30).filter(lambda codes: len(set(codes)) > 1))
def test_classes_called_by_their_names_are_the_values_again(codes):
    table = tabular_tasks.choose(make_columns(width=codes, kind=codes), ["kind:classes"])
    (task,) = table.tasks
    assert [int(task.class_names[int(label)]) for label in table.labels[:, 0]] == codes


@pytest.mark.parametrize(("rows", "most"), [(25, 20), (40, 20), (42, 21), (43, 21), (400, 200)])
def test_identifiers_are_not_taken_for_classes(rows, most):
    values = np.arange(rows) * 1000.0
    at_most = make_columns(width=values, id=values % (most * 1000))
    assert tabular_tasks.choose(at_most, ["id:classes"]).tasks[0].num_classes == most
    too_many = make_columns(width=values, id=values % ((most + 1) * 1000))
    message = f"column 'id' has {most + 1} distinct values in {rows} rows: too many for classes"
    with pytest.raises(ValueError, match=message):
        tabular_tasks.choose(too_many, ["id:classes"])
    texts = too_many._replace(texts={"id": tuple(f"{number:03}" for number in range(most + 1))})
    texts.values[:, 1] /= 1000
    with pytest.raises(ValueError, match=message):
        tabular_tasks.choose(texts, ["id:classes"])


@pytest.mark.parametrize("kind", ["binary", "bounded", "classes", "real"])
def test_a_task_of_one_value_or_none_is_refused(tmp_path, kind):
    columns = read(tmp_path, "width,zero,none,town\n1,1,,Rome\n2,,,Rome\n3,1,,\n")
    for name in ("zero", "town"):
        with pytest.raises(ValueError, match=f"column '{name}' has only one value, so there is nothing to learn"):
            tabular_tasks.choose(columns, [f"{name}:{kind}"])
    with pytest.raises(ValueError, match="task 'none' has no labels"):
        tabular_tasks.choose(columns, [f"none:{kind}"])


@pytest.mark.parametrize(
    ("tasks", "ignore", "message"),
    [
        (["size"], [], "COLUMN:KIND with KIND one of binary, bounded, classes, real, not 'size'"),
        (["size:"], [], "task 'size:': there is no kind ''; KIND is one of binary"),
        (["size:ordinal"], [], "task 'size:ordinal': there is no kind 'ordinal'; KIND is one of binary, bounded, cl"),
        (["width:real"], [], r"^there is no column 'width'; the columns are 'a:b', 'sold\?', 'size', 'holes'$"),
        (["size:real", "size:bounded"], [], "column 'size' can be only one task, not 2"),
        (["size:binary"], [], r"task 'size' is binary, but 3.5 on line 2 is neither 0 nor 1: make it size:classes"),
        (["size:bounded"], [], "task 'size' is bounded, but 3.5 on line 2 does not lie between 0 and 1"),
        (["holes:binary"], [], "task 'holes' is binary, but 2 on line 4 is neither"),
        (["holes:bounded"], [], "task 'holes' is bounded, but 2 on line 4 does"),
        (["size:real"], [], "'holes' is a feature"),
        (["size:real", "a:b:binary"], [], "'a:b' is binary, but 2 on line 3"),
        (["size:real"], ["hole"], "there is no column 'hole' to ignore; the columns are 'a:b', "),
        (["size:real"], ["holes", "size"], "column 'size' is to be ignored, so it cannot be a task"),
        (["size:real"], ["a:b", "sold?", "holes"], "no column is left as a feature: each is a task or ignored"),
        (["a:b:real", "sold?:binary", "size:real", "holes:real"], [], "no column is left as a feature"),
        ([], [], "there must be a task: COLUMN:KIND"),
    ],
)
def test_what_cannot_be_chosen_is_named_tasks_before_features(tasks, ignore, message):
    values = np.array([[1, 0, 3.5, np.nan], [2, 1, 2.5, 0], [3, 1, 2.5, 2]])
    columns = Columns(("a:b", "sold?", "size", "holes"), values, lines=(2, 3, 4))
    with pytest.raises(ValueError, match=message):
        tabular_tasks.choose(columns, tasks, ignore)


def test_columns_to_ignore_are_neither_task_nor_feature(tmp_path):
    columns = read(tmp_path, "a:b,width,name,holes\n0,1,x,\n1,5,y,2\n")
    table = tabular_tasks.choose(columns, ["a:b:binary"], ["name", "holes"])
    assert table.tasks == (Task("a:b", "binary"),)
    np.testing.assert_array_equal(table.features, [[1], [5]])


@pytest.mark.parametrize("tasks", [["width:real"], ["home town:real"], ["home town:binary"]])
def test_a_remedy_can_be_typed_into_a_shell(tmp_path, tasks):
    columns = read(tmp_path, "width,home town\n1,Rome\n2,Bern\n3,Oslo\n")
    with pytest.raises(ValueError, match="'home town:classes'"):
        tabular_tasks.choose(columns, tasks)


def test_numbers_that_single_precision_cannot_tell_apart_are_one_value():
    columns = make_columns(width=[1, 2], size=[1e9, 1e9 + 1])
    with pytest.raises(ValueError, match="'size' has only one value"):
        tabular_tasks.choose(columns, ["size:real"])


def test_a_bounded_label_below_0_is_named():
    columns = make_columns(width=[1, 2], share=[0.5, -0.1])
    with pytest.raises(ValueError, match=r"'share' is bounded, but -0\.1 on row 2 does not lie between 0 and 1"):
        tabular_tasks.choose(columns, ["share:bounded"])


def test_underscores_make_no_number_and_an_only_column_needs_no_separator(tmp_path):
    columns = read(tmp_path, "a\n12_3\n")
    assert (columns.names, columns.texts) == (("a",), {"a": ("12_3",)})
