"""Steps that are Python functions of the user."""

import sys

import pytest

from foundry_config.errors import ConfigError
from foundry_data.documents import Document
from foundry_data.transform_runner import run_manipulation
from foundry_data.transforms import manipulation_fingerprint, parse_steps

pytestmark = pytest.mark.usefixtures("unsynced")

MODULE = """
def reverse(documents):
    return reversed(list(documents))

def shout(documents, mark="!"):
    for document in documents:
        yield document._replace(text=document.text.upper() + mark)

def texts(documents):
    yield from (document.text for document in documents)

def with_seed(documents, seed):
    for document in documents:
        yield f"{document.text} {seed}"

def mark(text, sign="#"):
    return sign + text

def chance(text, seed):
    return f"{text} {seed}" if seed % 2 else None

not_a_function = 3
class Callable_:
    def __call__(self, documents): return documents
"""


@pytest.fixture
def project(tmp_path):
    """A project folder with a module of steps."""
    (tmp_path / "my_steps.py").write_text(MODULE)
    sys.modules.pop("my_steps", None)
    yield tmp_path
    sys.modules.pop("my_steps", None)


def run(project, step, texts=("one", "two", "three"), *, seed=0):
    documents = [Document(text, f"x:{number}") for number, text in enumerate(texts, 1)]
    return list(run_manipulation(documents, [step], seed=seed, num_workers=1, receipts_dir=project, base_dir=project))


def test_a_function_sees_and_gives_all_documents(project):
    assert run(project, "my_steps:reverse") == [("three", "x:3"), ("two", "x:2"), ("one", "x:1")]


def test_options_are_keyword_arguments(project):
    assert [document.text for document in run(project, {"name": "my_steps:shout", "mark": "?"})] == [
        "ONE?",
        "TWO?",
        "THREE?",
    ]


def test_texts_that_a_function_gives_are_named_after_it(project):
    assert run(project, "my_steps:texts")[1] == ("two", "my_steps:texts:2")


def test_a_function_can_work_on_single_texts(project):
    assert run(project, {"name": "my_steps:mark", "per": "document", "sign": "+"}) == [
        ("+one", "x:1"),
        ("+two", "x:2"),
        ("+three", "x:3"),
    ]


def test_a_parameter_seed_is_filled_in(project):
    outputs = [run(project, "my_steps:with_seed", seed=seed)[0].text for seed in (1, 1, 2)]
    given = run(project, {"name": "my_steps:with_seed", "seed": 7})[0].text

    assert outputs[0] == outputs[1] != outputs[2]
    assert given == "one 7"


def test_the_seed_of_a_text_does_not_depend_on_its_place(project):
    step = {"name": "my_steps:chance", "per": "document"}
    texts = [f"text {number}" for number in range(40)]

    forward = [document.text for document in run(project, step, texts)]
    backward = [document.text for document in run(project, step, texts[::-1])]

    assert forward == backward[::-1]
    assert 5 < len(forward) < 35


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("my_stepz:reverse", "cannot import module 'my_stepz'"),
        ("my_steps:revers", r"has no 'revers'\. Did you mean 'reverse'\?"),
        ("my_steps:not_a_function", "is not a function but int"),
        ({"name": "my_steps:shout", "mrak": 1}, r"unexpected keyword argument 'mrak'\. Did you mean 'mark'\?"),
        ({"name": "my_steps:mark", "per": "line"}, "per must be one of corpus, document, not 'line'"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused_before_any_text(project, step, said):
    with pytest.raises(ConfigError, match=said):
        parse_steps([step], seed=0, base_dir=project)


def test_functions_written_in_c_are_called_without_a_check(project):
    (step,) = parse_steps([{"name": "builtins:iter"}], seed=0, base_dir=project)

    assert list(step.transform.apply(iter([Document("x")]), step.context)) == [Document("x")]


def test_the_fingerprint_follows_the_module(project):
    before = manipulation_fingerprint(["my_steps:reverse"], seed=0, base_dir=project)

    (project / "my_steps.py").write_text(MODULE + "\n# edited\n")

    assert manipulation_fingerprint(["my_steps:reverse"], seed=0, base_dir=project) != before


def test_the_search_path_of_python_is_left_as_it_was(project):
    before = list(sys.path)

    parse_steps(["my_steps:reverse"], seed=0, base_dir=project)

    assert sys.path == before


def test_the_fingerprint_tells_what_a_function_is_called_with(project):
    texts, documents = ({"name": "my_steps:mark", "per": per} for per in ("document", "corpus"))

    assert manipulation_fingerprint([texts], seed=0, base_dir=project) != manipulation_fingerprint(
        [documents], seed=0, base_dir=project
    )


def test_the_fingerprint_follows_a_file_that_an_option_names(project):
    (project / "words.txt").write_text("one")
    step = {"name": "my_steps:mark", "per": "document", "sign": "words.txt"}
    before = manipulation_fingerprint([step], seed=0, base_dir=project)

    (project / "words.txt").write_text("two")

    assert manipulation_fingerprint([step], seed=0, base_dir=project) != before
