"""Room for long work: who is turned away is asked back, but not in a crowd."""

from workers.room import Room


class Clock:
    now = 0.0


def _room(places: int) -> tuple[Room, Clock, list[float]]:
    clock, asked = Clock(), list[float]()
    room = Room(places, lambda: asked.append(clock.now), pause_seconds=1.0, clock=lambda: clock.now)
    return room, clock, asked


def test_there_are_so_many_places_and_no_more() -> None:
    room, _, _ = _room(2)
    with room.place() as first, room.place() as second, room.place() as third:
        assert (first, second, third) == (True, True, False)
    with room.place() as again:
        assert again


def test_nobody_is_asked_back_when_nobody_was_turned_away() -> None:
    room, _, asked = _room(1)
    for _ in range(3):
        with room.place() as entered:
            assert entered
    assert asked == []


def test_who_was_turned_away_is_asked_back_as_soon_as_there_is_room() -> None:
    room, clock, asked = _room(1)
    with room.place(), room.place() as second:
        assert not second
        clock.now = 7.0
    assert asked == [7.0]


def test_asking_back_waits_for_its_pause_and_is_not_forgotten() -> None:
    room, clock, asked = _room(1)
    for clock.now in (0.0, 0.4, 0.8):
        with room.place(), room.place():
            pass
    assert asked == [0.0]
    clock.now = 1.2
    with room.place():
        pass
    assert asked == [0.0, 1.2]


def test_work_that_breaks_down_gives_its_place_back() -> None:
    room, _, _ = _room(1)
    try:
        with room.place():
            raise RuntimeError
    except RuntimeError:
        with room.place() as entered:
            assert entered
