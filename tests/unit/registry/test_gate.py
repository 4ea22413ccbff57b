import numpy as np
import pytest

from streetvision.errors import EvidenceError
from streetvision.evaluation import evaluate
from streetvision.registry.gate import Check, Decision, Policy, decide
from streetvision.registry.paired import mcnemar

QUICK = Policy(resamples=300)


def wrong(*spans):
    """Rows spread over the table, so that sources and levels share them."""
    order = np.random.default_rng(1).permutation(4000)
    return np.concatenate([order[start:stop] for start, stop in spans] or [np.empty(0, int)])


def check(decision: Decision, name: str) -> Check:
    return next(check for check in decision.checks if check.name == name)


def test_better_challenger_is_promoted_with_its_numbers(make_predictions):
    champion, challenger = make_predictions(wrong=wrong((0, 200))), make_predictions(wrong=wrong((150, 250)))
    decision = decide(champion, challenger, QUICK)
    assert (decision.verdict, decision.exit_code) == ("promote", 0)
    assert (decision.mcnemar.worse, decision.mcnemar.better, decision.n) == (50, 150, 4000)
    assert decision.gain.low > 0
    assert decision.gain.mean == pytest.approx(decision.challenger_reward.mean - decision.champion_reward.mean)
    assert decision.mcnemar.p_value < 1e-9
    assert decision.reasons[0].startswith("reward changes by +0.0")
    assert len(decision.strata) == 12
    assert sum(change.n for change in decision.strata) == 4000


def test_reward_of_each_model_is_the_one_its_report_gives(make_predictions):
    champion, challenger = make_predictions(wrong=wrong((0, 200))), make_predictions(wrong=wrong((0, 100)))
    decision = decide(champion, challenger, QUICK)
    assert decision.champion_reward == evaluate(champion, resamples=300).reward
    assert decision.challenger_reward == evaluate(challenger, resamples=300).reward


def test_equal_models_of_different_files_are_kept(make_predictions):
    same = make_predictions(wrong=wrong((0, 200)))
    decision = decide(same, same, QUICK, champion_sha256="a" * 64, challenger_sha256="b" * 64)
    assert (decision.verdict, decision.exit_code) == ("keep", 1)
    assert decision.reasons[0].startswith("reward changes by +0.0000 from")
    assert decision.reasons[1].startswith("95 % interval of the change of reward is [+0.0000, +0.0000]")
    anything = QUICK.model_copy(update={"min_gain": 0.0})
    assert decide(same, same, anything).verdict == "keep"


def test_the_champion_itself_is_kept_without_any_evidence(make_predictions):
    tiny, other = make_predictions(10), make_predictions(12)
    decision = decide(other, tiny, champion_sha256="a" * 64, challenger_sha256="a" * 64)
    assert decision.verdict == "keep"
    assert decision.reasons[0] == f"challenger is the champion: the same model.onnx, sha256 {'a' * 64}"


def test_certain_gain_below_the_least_is_kept(make_predictions):
    champion, challenger = make_predictions(wrong=wrong((0, 200))), make_predictions(wrong=wrong((0, 180)))
    assert decide(champion, challenger, QUICK).verdict == "promote"
    decision = decide(champion, challenger, QUICK.model_copy(update={"min_gain": 0.05}))
    assert 0 < decision.gain.low < decision.gain.mean < 0.05
    assert decision.verdict == "keep"
    assert check(decision, "gain").status == "failed"


def test_gain_that_may_be_chance_is_kept(make_predictions):
    champion, challenger = make_predictions(wrong=wrong((0, 200))), make_predictions(wrong=wrong((190, 370)))
    decision = decide(champion, challenger, QUICK)
    assert decision.gain.mean >= QUICK.min_gain
    assert decision.gain.low <= 0
    assert decision.verdict == "keep"
    assert (check(decision, "gain").status, check(decision, "lower bound").status) == ("passed", "failed")


def test_order_of_the_rows_does_not_matter(make_predictions):
    champion, challenger = make_predictions(wrong=wrong((0, 200))), make_predictions(wrong=wrong((150, 250)))
    order = np.random.default_rng(3).permutation(4000)
    columns = ("challenge_id", "label", "probability", "source", "level", "calibrated")
    shuffled = make_predictions(**{name: getattr(champion, name)[order] for name in columns})
    assert decide(shuffled, challenger, QUICK) == decide(champion, challenger, QUICK)


def test_few_challenges_are_not_enough_evidence_however_good(make_predictions):
    champion, challenger = make_predictions(3999, wrong=range(900)), make_predictions(3999)
    decision = decide(champion, challenger, QUICK)
    assert (decision.verdict, decision.exit_code) == ("not enough evidence", 3)
    assert decision.reasons == ("3999 challenges were answered, at least 4000 are needed",)


def test_a_clear_loss_on_few_challenges_is_not_enough_evidence_either(make_predictions):
    decision = decide(make_predictions(3999), make_predictions(3999, wrong=range(900)), QUICK)
    assert decision.verdict == "not enough evidence"
    assert decision.reasons == ("3999 challenges were answered, at least 4000 are needed",)
    assert check(decision, "gain").status == "failed"


@pytest.mark.parametrize("n", [1, 2, 100, 101])
def test_a_handful_of_challenges_is_no_error(make_predictions, n):
    for champion in (make_predictions(n), None):
        decision = decide(champion, make_predictions(n, wrong=[0]), QUICK)
        assert decision.verdict == "not enough evidence"
        assert (decision.challenger_reward is None) == (n <= 100)
        unmeasured = {check.name for check in decision.checks if "whose rewards do not count" in check.sentence}
        expected = {"floor reward"} if champion is None else {"gain", "lower bound"}
        assert unmeasured == (expected if n <= 100 else set())


def test_a_burn_in_of_everything_is_not_enough_evidence(make_predictions):
    policy = QUICK.model_copy(update={"burn_in": 4000})
    decision = decide(make_predictions(wrong=wrong((0, 200))), make_predictions(), policy)
    assert decision.verdict == "not enough evidence"
    assert decision.reasons == ("4000 challenges were answered, at least 4001 are needed",)


def test_no_challenges_at_all_are_refused(make_predictions):
    with pytest.raises(EvidenceError, match="the challenger answered no challenge"):
        decide(make_predictions(0), make_predictions(0), QUICK)


@pytest.mark.parametrize("label", [0, 1])
def test_challenges_of_one_class_only_are_judged(make_predictions, label):
    columns = {"label": np.full(4000, label, dtype=np.uint8)}
    sure = np.full(4000, float(label))
    champion = make_predictions(probability=np.where(np.arange(4000) % 20 == 0, 1 - sure, sure), **columns)
    challenger = make_predictions(probability=sure, **columns)
    decision = decide(champion, challenger, QUICK)
    assert decision.challenger_reward.mean == pytest.approx(0.125)  # no MCC to earn
    assert decision.verdict == "promote"
    assert decide(challenger, champion, QUICK).verdict == "keep"


def test_a_large_set_is_replayed_in_parts_to_the_same_numbers(make_predictions, monkeypatch):
    champion, challenger = make_predictions(wrong=wrong((0, 200))), make_predictions(wrong=wrong((150, 250)))
    grouped = make_predictions(wrong=wrong((0, 200)), groups=400), make_predictions(groups=400)
    whole = decide(champion, challenger, QUICK), decide(*grouped, QUICK)
    monkeypatch.setattr("streetvision.registry.gate._BLOCK", 4000 * 7)
    assert (decide(champion, challenger, QUICK), decide(*grouped, QUICK)) == whole


def test_few_groups_are_not_enough_evidence(make_predictions):
    champion, challenger = make_predictions(wrong=range(900), groups=299), make_predictions(groups=299)
    decision = decide(champion, challenger, QUICK)
    assert decision.verdict == "not enough evidence"
    assert decision.reasons == ("challenges come from 299 independent pictures, at least 300 are needed",)


def test_groups_widen_the_interval(make_predictions):
    def width(groups):
        # whole pictures are answered better, as they are in truth
        rows = [row for row in range(4000) if row % 400 < 12]
        gain = decide(make_predictions(wrong=rows, groups=groups), make_predictions(groups=groups), QUICK).gain
        return gain.high - gain.low

    assert width(400) > 2 * width(None)


def test_one_much_worse_stratum_refuses_a_better_challenger(make_predictions):
    table = make_predictions()
    cell = np.flatnonzero((table.source == "real") & (table.level == 2))
    others = np.setdiff1d(np.arange(4000), cell)
    champion = make_predictions(wrong=others[::20])
    challenger = make_predictions(wrong=cell[: len(cell) // 12])
    decision = decide(champion, challenger, QUICK)
    assert decision.gain.low > 0
    assert decision.verdict == "keep"
    assert decision.reasons[0].startswith("stratum `real` level 2 is significantly worse")


def test_a_little_worse_stratum_does_not_refuse(make_predictions):
    table = make_predictions()
    cell = np.flatnonzero((table.source == "real") & (table.level == 2))
    champion = make_predictions(wrong=np.setdiff1d(np.arange(4000), cell)[::20])
    challenger = make_predictions(wrong=cell[: len(cell) // 60])
    assert decide(champion, challenger, QUICK).verdict == "promote"


def test_one_of_twelve_strata_may_look_worse_by_chance(make_predictions):
    table = make_predictions()
    cell = np.flatnonzero((table.source == "i2i") & (table.level == 1))
    champion = make_predictions(wrong=[*np.setdiff1d(np.arange(4000), cell)[::20], *cell[:2]])
    decision = decide(champion, make_predictions(wrong=cell[2:12]), QUICK)
    (change,) = (change for change in decision.strata if (change.source, change.level) == ("i2i", 1))
    assert (change.worse, change.better) == (10, 2)
    assert (change.worse - change.better) / change.n > QUICK.stratum_loss
    assert change.p_value == pytest.approx(12 * mcnemar(np.repeat(np.array([-1, 1]), [10, 2])))  # 12 x 0.019
    assert decision.verdict == "promote"


def test_a_stratum_of_three_challenges_does_not_refuse(make_predictions):
    source = make_predictions().source.astype("U8")
    source[:3] = "rare"
    champion = make_predictions(wrong=wrong((0, 200)), source=source)
    challenger = make_predictions(wrong=[0, 1, 2], source=source)
    decision = decide(champion, challenger, QUICK)
    rare = [change for change in decision.strata if change.source == "rare"]
    assert sum(change.worse for change in rare) == 3
    assert decision.verdict == "promote"


def test_a_stratum_lost_on_few_pictures_does_not_refuse(make_predictions):
    # forty views answered wrong weigh as much as the pictures they are of
    table = make_predictions(groups=400)
    cell = np.flatnonzero((table.source == "real") & (table.level == 2))
    champion_wrong, challenger_wrong = np.setdiff1d(np.arange(4000), cell)[::20], cell[:40]

    def verdict(group):
        champion = make_predictions(wrong=champion_wrong, group=group)
        return decide(champion, make_predictions(wrong=challenger_wrong, group=group), QUICK).verdict

    few = table.group.astype("U16")
    few[challenger_wrong] = [f"scene-{row % 4}" for row in range(40)]
    assert verdict(table.group) == "keep"
    assert verdict(few) == "promote"


def test_exactly_two_points_are_not_below_two_points(make_predictions):
    source, level = np.array(["real"] * 4000), np.repeat([0, 1], [500, 3500]).astype(np.int8)
    strata = {"source": source, "level": level}
    champion = make_predictions(wrong=range(500, 900), **strata)
    policy = QUICK.model_copy(update={"stratum_significance": 1.0})

    def status(mistakes):
        return check(decide(champion, make_predictions(wrong=range(mistakes), **strata), policy), "strata").status

    assert (status(10), status(11)) == ("passed", "failed")


def test_significantly_worse_calibration_refuses_a_better_challenger(make_predictions):
    champion, better = make_predictions(wrong=wrong((0, 200))), make_predictions(wrong=wrong((0, 100)))
    vague = make_predictions(wrong=wrong((0, 100)), calibrated=0.5 + 0.4 * (better.calibrated - 0.5))
    assert decide(champion, better, QUICK).verdict == "promote"
    decision = decide(champion, vague, QUICK)
    assert decision.gain.low > 0
    assert [reason.split(" changes")[0] for reason in decision.reasons] == ["Brier score"]


def test_slow_challenger_is_kept(make_predictions):
    latency_ms = np.full(4000, 20.0)
    latency_ms[:50] = 2500.0
    champion, challenger = make_predictions(wrong=wrong((0, 200))), make_predictions(latency_ms=latency_ms)
    assert decide(champion, challenger, QUICK).reasons == (
        "99 % of answers take at most 2500 ms, under 2000 ms is needed",
    )


def test_checks_without_their_input_are_listed_as_not_checked(make_predictions):
    champion = make_predictions(wrong=wrong((0, 200)), calibrated=None)
    decision = decide(champion, make_predictions(wrong=wrong((0, 100))), QUICK)
    not_checked = {check.name for check in decision.checks if check.status == "not checked"}
    assert not_checked == {"groups", "brier", "latency", "consistency"}
    assert decision.verdict == "promote"


def test_every_check_shows_both_models_numbers(make_predictions):
    latency = {"latency_ms": np.full(4000, 20.0)}
    champion = make_predictions(wrong=wrong((0, 200)), groups=400, **latency)
    decision = decide(champion, make_predictions(wrong=wrong((0, 100)), groups=400, **latency), QUICK)
    names = ["challenges", "groups", "gain", "lower bound", "strata", "brier", "latency", "consistency"]
    assert [check.name for check in decision.checks] == names
    for one in decision.checks[:-1]:
        assert one.status == "passed"
        assert one.champion is not None
        assert one.challenger is not None


def test_inconsistent_model_directory_is_kept(make_predictions):
    found = Check(name="consistency", status="failed", sentence="`model.onnx` has sha256 0, expected 1")
    champion, challenger = make_predictions(wrong=wrong((0, 200))), make_predictions(wrong=wrong((0, 100)))
    assert decide(champion, challenger, QUICK, consistency=found).reasons == (found.sentence,)


def test_first_model_has_to_reach_the_floor(make_predictions):
    def failed(mistakes):
        decision = decide(None, make_predictions(wrong=range(mistakes)), QUICK)
        assert decision.gain is None
        assert decision.verdict == ("keep" if mistakes > 1000 else "promote")
        return {check.name for check in decision.checks if check.status == "failed"}

    assert failed(1000) == set()
    assert failed(1001) == {"floor accuracy"}
    assert failed(1500) == {"floor accuracy", "floor reward"}


def test_first_model_with_few_challenges_is_not_enough_evidence(make_predictions):
    assert decide(None, make_predictions(500), QUICK).verdict == "not enough evidence"


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("challenge_id", "other/5", "2, such as `other/5`, have one answer only"),
        ("label", None, "`label` of challenge `set/5`"),
        ("source", "cosmos", "`source` of challenge `set/5` is"),
        ("level", 9, "`level` of challenge `set/5` is"),
    ],
)
def test_different_challenge_sets_are_refused(make_predictions, column, value, message):
    champion = make_predictions()
    changed = getattr(champion, column).copy()
    if changed.dtype.kind == "U":
        changed = changed.astype("U16")
    changed[5] = 1 - changed[5] if value is None else value
    with pytest.raises(EvidenceError, match="expected the same") as caught:
        decide(champion, make_predictions(**{column: changed}), QUICK)
    assert message in str(caught.value)


def test_missing_rows_are_refused(make_predictions):
    with pytest.raises(EvidenceError, match="champion answered 4000 challenges and challenger 3999"):
        decide(make_predictions(), make_predictions(3999), QUICK)


def test_groups_that_one_table_knows_are_those_of_the_challenges(make_predictions):
    group = make_predictions(groups=400).group
    decisions = [
        decide(
            make_predictions(wrong=wrong((0, 200)), group=of_champion),
            make_predictions(wrong=wrong((0, 100)), group=of_challenger),
            QUICK,
        )
        for of_champion, of_challenger in ((group, group), (group, None), (None, group))
    ]
    assert decisions[0].groups == 400
    assert decisions[1:] == decisions[:1] * 2


def test_groups_that_differ_are_refused(make_predictions):
    with pytest.raises(EvidenceError, match="`group` of challenge `set/399` is `scene-399` for the champion and"):
        decide(make_predictions(groups=400), make_predictions(groups=399), QUICK)


def test_probability_outside_the_range_is_refused(make_predictions):
    with pytest.raises(EvidenceError, match=r"`probability` of challenge `set/3` is 1.5"):
        make_predictions(probability=np.where(np.arange(4000) == 3, 1.5, 0.5))


def test_decision_survives_json(make_predictions):
    decision = decide(make_predictions(wrong=wrong((0, 200))), make_predictions(), QUICK, champion_sha256="a" * 64)
    assert Decision.model_validate_json(decision.model_dump_json()) == decision
