import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.stops import StopFilter

text = st.text("ab.", max_size=12)
stops = st.lists(st.text("ab.", min_size=1, max_size=4), max_size=3)


def through(pieces, stops):
    each = StopFilter(stops)
    out = "".join(each.push(piece) for piece in pieces)
    return out + each.finish(), each.stopped


def expected(text, stops):
    """Character by character: the first stop to be complete ends the text, of several the longest."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))], True
    return text, False


@given(st.lists(text, max_size=6), stops)
def test_how_the_text_is_cut_makes_no_difference(pieces, stops):
    assert through(pieces, stops) == expected("".join(pieces), stops)


@given(st.lists(text, max_size=6), stops)
def test_what_is_let_through_is_never_taken_back(pieces, stops):
    each, shown, whole = StopFilter(stops), "", expected("".join(pieces), stops)[0]
    for piece in pieces:
        shown += each.push(piece)
        assert whole.startswith(shown)


def test_only_what_may_be_a_stop_is_held_back():
    each = StopFilter(["\n\n", "END"])
    assert each.push("one E") == "one "
    assert each.holding
    assert each.push("N") == ""
    assert each.push("o\n") == "ENo"
    assert each.push("x") == "\nx"
    assert not each.holding
    assert each.push("\n\nmore") == ""
    assert each.stopped
    assert each.push("more") == ""
    assert each.finish() == ""


@pytest.mark.parametrize("stops", [[], ["zzz"]])
def test_without_a_stop_all_comes_through(stops):
    assert through(["a", "zz", "b", "zz"], stops) == ("azzbzz", False)
