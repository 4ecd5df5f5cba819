"""Images by id and by file name: an id goes before a name, and a name of two images is no one's."""

from hypothesis import given
from hypothesis import strategies as st

from raylabel.dataset.fields import places_by_name

NAMES = st.lists(st.one_of(st.none(), st.sampled_from(["a", "b", "c"])), max_size=5)


@given(names=NAMES, has_text_ids=st.booleans())
def test_every_name_finds_its_image_or_none(names: list[str | None], has_text_ids: bool) -> None:
    ids: list[int | str] = [
        ("b" if place == 1 else f"id {place}") if has_text_ids else place for place in range(len(names))
    ]
    places = places_by_name(ids, names)
    assert [places[image_id] for image_id in ids] == list(range(len(names)))
    for name in set(names) - {None} - set(ids):
        of_name = [place for place, one in enumerate(names) if one == name]
        assert places.get(name) == (of_name[0] if len(of_name) == 1 else None)
    assert None not in places


def test_places_may_be_given() -> None:
    assert places_by_name([4, 9], ["a", None], [1, 0]) == {"a": 1, 4: 1, 9: 0}
