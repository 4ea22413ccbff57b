import pytest

from serving.miner.breaker import Breaker


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(clock_s=clock)


@pytest.fixture
def opened(breaker: Breaker) -> Breaker:
    for _ in range(3):
        assert breaker.admits()
        breaker.failed()
    return breaker


def test_it_opens_after_three_failures_in_a_row(breaker: Breaker):
    for _ in range(2):
        breaker.failed()
    breaker.succeeded()
    for _ in range(2):
        breaker.failed()
    assert (breaker.state, breaker.admits()) == ("closed", True)
    breaker.failed()
    assert (breaker.state, breaker.admits()) == ("open", False)


def test_an_end_that_tells_nothing_is_no_success(breaker: Breaker):
    breaker.failed()
    breaker.failed()
    breaker.spared()
    breaker.failed()
    assert breaker.state == "open"


def test_after_the_wait_one_probe_passes_at_a_time(opened: Breaker, clock: Clock):
    clock.now_s += 4.9
    assert not opened.admits()
    clock.now_s += 0.2
    assert opened.admits()
    assert opened.state == "half_open"
    assert not opened.admits()
    assert not opened.admits(urgent=True)


def test_a_good_probe_closes_it(opened: Breaker, clock: Clock):
    clock.now_s += 5
    assert opened.admits()
    opened.succeeded()
    assert opened.state == "closed"
    opened.failed()
    opened.failed()
    assert opened.state == "closed"


def test_every_bad_probe_doubles_the_wait_up_to_a_minute(opened: Breaker, clock: Clock):
    for wait_s in (5, 10, 20, 40, 60, 60):
        clock.now_s += wait_s - 0.1
        assert not opened.admits()
        clock.now_s += 0.1
        assert opened.admits()
        opened.failed()
        assert opened.state == "open"
    clock.now_s += 60
    assert opened.admits()
    opened.succeeded()
    for _ in range(3):
        opened.failed()
    clock.now_s += 5
    assert opened.admits()


def test_a_probe_that_told_nothing_makes_room_for_the_next(opened: Breaker, clock: Clock):
    clock.now_s += 5
    assert opened.admits()
    opened.spared()
    assert opened.state == "open"
    assert opened.admits()


def test_an_urgent_probe_does_not_wait(opened: Breaker):
    assert opened.admits(urgent=True)
    assert not opened.admits(urgent=True)


def test_failures_that_were_on_their_way_do_not_prolong_the_wait(opened: Breaker, clock: Clock):
    clock.now_s += 4
    opened.failed()
    clock.now_s += 1
    assert opened.admits()


def test_a_late_success_closes_it(opened: Breaker):
    opened.succeeded()
    assert opened.state == "closed"
