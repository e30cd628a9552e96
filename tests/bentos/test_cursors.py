"""Cursors: what they carry, and what is refused."""

import base64

import pytest

from bentos.recommender.answering.cursors import BEGINNING, Cursors, bundle_mark, item_mark
from bentos.recommender.contract.requests import FiltersBody, RecommendBody, RequestError, SearchBody, SimilarBody

CURSORS = Cursors(b"k" * 32)


def body(**fields):
    return SearchBody(**{"query": "milk", **fields})


QUESTION = CURSORS.question("search", body())


def test_a_cursor_gives_back_what_was_shown():
    assert CURSORS.read(None, QUESTION) is BEGINNING
    first = CURSORS.read(CURSORS.write(QUESTION, "b1", BEGINNING, ["a", "b"]), QUESTION)
    second = CURSORS.read(CURSORS.write(QUESTION, "b2", first, ["c"]), QUESTION)
    assert (first.n_shown, second.n_shown) == (2, 3)
    assert second.shown() == {item_mark("a"), item_mark("b"), item_mark("c")}
    assert (first.bundle, second.bundle) == (bundle_mark("b1"), bundle_mark("b2"))


def test_it_holds_no_text_and_no_id():
    cursor = CURSORS.write(
        CURSORS.question("search", body(query="secret milk", user_id="ann")), "b1", BEGINNING, ["item-7"]
    )
    raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    assert not any(text in raw for text in (b"milk", b"ann", b"item-7", b"b1"))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"query": "mil"}, id="query"),
        pytest.param({"user_id": "ann"}, id="user"),
        pytest.param({"filters": FiltersBody(brands=["Mill"])}, id="filters"),
        pytest.param({"context": {"page": "home"}}, id="context"),
    ],
)
def test_a_cursor_of_another_question_is_refused(change):
    cursor = CURSORS.write(QUESTION, "b1", BEGINNING, ["a"])
    with pytest.raises(RequestError, match="belongs to another question: send it with the same") as caught:
        CURSORS.read(cursor, CURSORS.question("search", body(**change)))
    assert caught.value.status == 422
    with pytest.raises(RequestError, match="belongs to another question"):
        CURSORS.read(cursor, CURSORS.question("recommend", RecommendBody(user_id="milk")))


def test_questions_differ_where_a_field_that_matters_differs():
    similar = [
        SimilarBody(item_id="a"),
        SimilarBody(item_id="b"),
        SimilarBody(item_id="a", kind="goes_with"),
        SimilarBody(item_id="a", other_categories=True),
    ]
    recommended = [RecommendBody(user_id="a"), RecommendBody(user_id="b"), RecommendBody(user_id="a", seed_items=["a"])]
    marks = [CURSORS.question("similar", one) for one in similar] + [
        CURSORS.question("recommend", one) for one in recommended
    ]
    assert len(set(marks)) == len(marks)
    assert CURSORS.question("similar", SimilarBody(item_id="a", k=3, timings=True, rules=True)) == marks[0]


def test_a_cursor_that_was_changed_is_refused():
    cursor = CURSORS.write(QUESTION, "b1", BEGINNING, ["a", "b"])
    broken = ["", "x", "é", "a b", cursor[:-2], cursor + "AAAA", cursor[4:], "A" * len(cursor), cursor[:22]]
    broken += [
        cursor[:place] + ("A" if cursor[place] != "A" else "B") + cursor[place + 1 :]
        for place in range(0, len(cursor) - 1, 5)
    ]
    for text in broken:
        with pytest.raises(RequestError, match="not one that this service gave"):
            CURSORS.read(text, QUESTION)
    with pytest.raises(RequestError, match="not one that this service gave"):
        Cursors(b"another key, 32 bytes long......").read(cursor, QUESTION)
